"""Can slices be rendered without a screen here? Names the Debian package of every library that is missing.

python Testing/scene/check_system.py       exit 0: all there; 1: something is missing
"""

from __future__ import annotations

import ctypes
import sys

# What the wheels of vtk and Qt for Python load, and do not bring themselves.
LIBRARIES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libX11.so.6": "libx11-6",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libfontconfig.so.1": "libfontconfig1",
    "libdbus-1.so.3": "libdbus-1-3",
    "libglib-2.0.so.0": "libglib2.0-0",
}


def missing() -> dict[str, str]:
    """Library -> Debian package, for each that cannot be loaded."""
    found = {}
    for library, package in LIBRARIES.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            found[library] = package
    return found


def has_egl_driver() -> bool:
    """EGL itself is only a dispatcher: without a driver it gives no display (software: libegl-mesa0)."""
    egl = ctypes.CDLL("libEGL.so.1")
    egl.eglQueryString.restype = ctypes.c_char_p
    egl.eglGetDisplay.restype = ctypes.c_void_p
    extensions = egl.eglQueryString(None, 0x3055) or b""
    return b"EGL_EXT_platform_device" in extensions or bool(egl.eglGetDisplay(None))


def main() -> int:
    lacking = missing()
    packages = set(lacking.values())
    if "libegl1" not in packages and not has_egl_driver():
        lacking["an EGL driver"] = "libegl-mesa0"
        packages |= {"libegl-mesa0", "libgl1-mesa-dri"}
    for library in lacking:
        print(f"{library} is missing (Debian package {lacking[library]})")
    if packages:
        print("The tests of the Slicer module render slices without a screen. Install with:")
        print("    apt-get install --no-install-recommends " + " ".join(sorted(packages)))
        return 1
    print("Rendering without a screen: all system libraries are there.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
