"""Reports as HTML pages of one file each, which fetch nothing and may be sent around."""
