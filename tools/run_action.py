#!/usr/bin/env python3
"""Runs the steps of action.yml in their order on a machine without GitHub, as GitHub's runner would: inputs, outputs of
earlier steps and the files for outputs and summary. Needs PyYAML and bash.

    python3 tools/run_action.py --input suite=suites/quick.toml --input tier=smoke --input program=target/release/bench

Prints each step's output, the action's outputs and the summary; its exit code is that of the first step that failed.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent


def evaluated(text, inputs, outputs):
    """`text` with `${{ inputs.x }}`, `${{ steps.y.outputs.z }}` and `${{ github.action_path }}` replaced."""

    def value(match):
        parts = match.group(1).strip().split(".")
        if parts[0] == "inputs" and len(parts) == 2:
            return inputs[parts[1]]
        if parts[0] == "steps" and parts[2] == "outputs":
            return outputs.get(parts[1], {}).get(parts[3], "")
        if parts == ["github", "action_path"]:
            return str(ROOT)
        raise SystemExit(f"action.yml uses {match.group(0)}, which this script does not know")

    return re.sub(r"\$\{\{(.*?)\}\}", value, str(text))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", action="append", default=[], metavar="NAME=VALUE")
    given = dict(pair.split("=", 1) for pair in parser.parse_args().input)
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    unknown = set(given) - set(action["inputs"])
    if unknown:
        raise SystemExit(f"action.yml has no input {', '.join(sorted(unknown))}")
    inputs = {}
    for name, description in action["inputs"].items():
        if name not in given and description.get("required"):
            raise SystemExit(f"input {name} is required")
        inputs[name] = given.get(name, str(description.get("default", "")))
    outputs, code = {}, 0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        summary = scratch / "summary.md"
        summary.touch()
        for step in action["runs"]["steps"]:
            print(f"== step {step['id']}", flush=True)
            output = scratch / f"{step['id']}.output"
            output.touch()
            script = scratch / f"{step['id']}.sh"
            script.write_text(evaluated(step["run"], inputs, outputs))
            environment = dict(os.environ, GITHUB_ACTIONS="true", GITHUB_OUTPUT=str(output))
            environment["GITHUB_STEP_SUMMARY"] = str(summary)
            environment.update({name: evaluated(text, inputs, outputs) for name, text in step.get("env", {}).items()})
            # As GitHub starts `shell: bash`.
            shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
            code = subprocess.run(shell, env=environment).returncode
            outputs[step["id"]] = dict(line.split("=", 1) for line in output.read_text().splitlines())
            print(f"   exit code {code}", flush=True)
            if code != 0:
                break
        for name, description in action["outputs"].items():
            print(f"output {name} = {evaluated(description['value'], inputs, outputs)}")
        print(f"== summary\n{summary.read_text()}", flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
