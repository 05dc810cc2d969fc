"""What the user clicks: the widgets' behaviour, section by section."""
