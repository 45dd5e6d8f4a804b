"""`python -m gateway` is the command `qcs-gateway`."""

from gateway.cli import main

if __name__ == "__main__":
    main(prog_name="qcs-gateway")
