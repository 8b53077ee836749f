# Sourced by every script, inside code/: sets PYTHON to an interpreter that meets the requirements.
# The active python is used untouched when it meets them; otherwise .venv at the repository root is
# made, once. REQUIREMENTS may name further files (test.sh adds ../requirements-dev.txt).

REQUIREMENTS="../requirements.txt ${REQUIREMENTS:-}"

fail() {
    echo "error: $*" >&2
    exit 1
}

# Is there anything to install for interpreter $1? Silent; needs nothing but Python itself.
meets() {
    command -v "$1" >/dev/null 2>&1 && "$1" script/requirements_met.py $REQUIREMENTS
}

PYTHON=
for candidate in python python3 ../.venv/bin/python; do
    if meets "$candidate"; then
        PYTHON=$candidate
        break
    fi
done

if [ -z "$PYTHON" ]; then
    if [ ! -x ../.venv/bin/python ]; then
        BASE=
        for candidate in python3 python; do
            if command -v "$candidate" >/dev/null 2>&1 &&
                "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
                BASE=$candidate
                break
            fi
        done
        [ -n "$BASE" ] || fail "needs Python 3.10 or newer on the PATH"
        echo "creating .venv with $("$BASE" --version)"
        if command -v uv >/dev/null 2>&1; then
            uv venv --python "$BASE" ../.venv || fail "uv could not create .venv"
        else
            "$BASE" -c 'import venv, ensurepip' 2>/dev/null ||
                fail "this Python cannot make environments; install the package that brings venv" \
                    "(Debian and Ubuntu: apt-get install python3-venv) and run this again"
            "$BASE" -m venv ../.venv || fail "could not create .venv"
        fi
    fi
    PYTHON=../.venv/bin/python
    echo "installing into .venv what is missing (PyTorch is large; this is done once)"
    ARGUMENTS=
    for file in $REQUIREMENTS; do
        ARGUMENTS="$ARGUMENTS -r $file"
    done
    if command -v uv >/dev/null 2>&1; then
        uv pip install --python "$PYTHON" $ARGUMENTS || fail "installation failed"
    else
        "$PYTHON" -m pip install --quiet $ARGUMENTS || fail "installation failed"
    fi
    meets "$PYTHON" || fail "installed, but .venv still lacks something; delete .venv and run this again"
fi

# NPROC=4 sh script/mmpareto.sh trains in 4 processes, one per GPU where there are GPUs
case "${NPROC:=1}" in
*[!0-9]* | 0) fail "NPROC $NPROC: must be the number of processes, 1 or more" ;;
1) LAUNCH=$PYTHON ;;
*) LAUNCH="$PYTHON script/launch.py --standalone --nproc_per_node $NPROC" ;;
esac
