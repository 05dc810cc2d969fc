"""Start-up hook, and installation of packages on demand."""
