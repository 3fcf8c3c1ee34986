"""Compiles `worker/csv_records.c` while planrelay is built or installed. Without a compiler, planrelay does without."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CsvRecords(BuildHookInterface[Any]):
    """Makes `worker/_csv_records.so`: no Python in it, so one serves all of a machine's."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - the hook's signature
        """Compile, and have the result in the wheel."""
        if self.target_name != "wheel":  # a source distribution has the source
            return
        folder = Path(self.root) / "worker"
        library = folder / "_csv_records.so"
        library.unlink(missing_ok=True)
        compiler = shlex.split(os.environ.get("CC", "cc"))
        if shutil.which(compiler[0]) is None:
            self.app.display_warning("No C compiler (cc): large CSV files will be checked in Python, which is slower.")
            return
        flags = ["-std=c99", "-O3", "-Wall", "-Wextra", "-shared", "-fPIC"]
        made = subprocess.run([*compiler, *flags, "-o", library, folder / "csv_records.c"], check=False)  # noqa: S603
        if made.returncode:
            self.app.display_warning(
                "worker/csv_records.c was not compiled: large CSV files will be checked in Python."
            )
            return
        build_data["artifacts"].append("worker/_csv_records.so")
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
