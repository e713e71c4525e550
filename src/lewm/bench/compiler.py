"""Whether torch.compile has the compiler that it needs."""

import os
import shutil

from lewm.errors import ConfigError

CPP_COMPILERS = ("g++", "clang++", "c++")
C_COMPILERS = ("gcc", "clang")


def require_compiler(device: str) -> None:
    """``ConfigError`` with advice where what torch.compile writes could not be built: C++ for a CPU, C that launches kernels for a GPU."""
    variable, names = ("CXX", CPP_COMPILERS) if device == "cpu" else ("CC", C_COMPILERS)
    if not any(shutil.which(name) for name in (os.environ.get(variable, ""), *names) if name):
        where, language = ("a CPU", "C++") if device == "cpu" else ("a GPU", "C")
        raise ConfigError(
            f"compiling for {where} needs a {language} compiler ({', '.join(names)}): install one, name it in {variable}, or omit --compile"
        )
