# SPDX-License-Identifier: ISC
"""The module's folder builds inside a host tree and beside one, and installs what belongs where."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from clients import TlsClient
from ser import TOP, TLS_SO

EXPORTS = ["exports", "mod_register", "module_flags", "module_version"]
NOT_COPIED = shutil.ignore_patterns("build", ".git", ".pytest_cache", "__pycache__", "*.so", "*.o", "*.d")
LIBM = "-Wl,--no-as-needed -lm"

pytestmark = pytest.mark.build


def _make(folder: Path, *words: str) -> str:
    env = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(["make", "-C", str(folder), *words], capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def _exports(module: Path) -> list[str]:
    text = subprocess.run(["nm", "-D", "--defined-only", str(module)], capture_output=True, text=True, check=True).stdout
    return sorted(line.split()[-1] for line in text.splitlines())


def _needs(module: Path) -> set[str]:
    text = subprocess.run(["readelf", "-d", str(module)], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"\(NEEDED\).*\[(.*?)\]", text))


def _host_tree() -> Path:
    """The headers and Makefiles of the host that the module under test was built for."""
    found = re.search(r"^HOST_SRC := (.+)$", (TOP / "build/host/config.mk").read_text(), re.M)
    assert found
    return Path(found[1])


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A host tree with this folder as src/modules/tls, built from its top."""
    src = tmp_path_factory.mktemp("host") / "src"
    shutil.copytree(_host_tree(), src, symlinks=True)
    shutil.rmtree(src / "modules/tls", ignore_errors=True)
    shutil.copytree(TOP, src / "modules/tls", ignore=NOT_COPIED)
    said = _make(src, "-j2", "modules", "modules=modules/tls")
    assert "warning" not in said.lower(), said
    return src


def _serves(pool, certs, module: Path) -> None:
    ser = pool.fresh(tls=certs.server_params(), tls_path=str(module)).start()
    with TlsClient(ser.tls_port, certs.client_context()) as client:
        assert client.ask().status == 200


def test_inside_a_host_tree(pool, certs, tree):
    module = tree / "modules/tls/tls.so"
    assert _exports(module) == EXPORTS
    assert "libm.so.6" not in _needs(module)
    _serves(pool, certs, module)


def test_in_place_with_more_libraries(pool, certs, tree):
    module = tree / "modules/tls/tls.so"
    module.unlink()
    _make(module.parent, "-j2", f"TLS_EXTRA_LIBS={LIBM}")
    assert _exports(module) == EXPORTS
    assert {"libssl.so.3", "libcrypto.so.3", "libm.so.6"} <= _needs(module)
    _serves(pool, certs, module)


def test_for_a_host_tree_elsewhere(pool, certs, tree, tmp_path):
    folder = tmp_path / "tls"
    shutil.copytree(TOP, folder, ignore=NOT_COPIED)
    _make(folder, "-j2", f"SER_SRC={tree.parent}", f"TLS_EXTRA_LIBS={LIBM}")
    assert _exports(folder / "tls.so") == EXPORTS
    assert "libm.so.6" in _needs(folder / "tls.so")
    _serves(pool, certs, folder / "tls.so")


def test_install(tmp_path):
    """Never over what an operator has edited."""
    words = ["DEPS=no", f"DESTDIR={tmp_path}", "PREFIX=/opt/ser", "install"]
    _make(TOP, *words)
    modules = list(tmp_path.glob("opt/ser/lib/**/modules/tls.so"))
    assert len(modules) == 1 and modules[0].read_bytes() == (TOP / "tls.so").read_bytes()
    cfg = tmp_path / "opt/ser/etc/kamailio/tls.cfg"
    assert cfg.read_bytes() == (TOP / "tls.cfg").read_bytes()
    assert list(tmp_path.glob("opt/ser/share/doc/*/README"))
    cfg.write_text("# mine\n")
    said = _make(TOP, *words)
    assert cfg.read_text() == "# mine\n" and str(cfg) in said
    assert cfg.with_name("tls.cfg.sample").read_bytes() == (TOP / "tls.cfg").read_bytes()
    _make(TOP, *words[:-1], "uninstall")
    assert not modules[0].exists() and not cfg.with_name("tls.cfg.sample").exists() and cfg.exists()


def test_the_module_under_test_exports_no_more(tmp_path):
    assert _exports(TLS_SO) == EXPORTS
