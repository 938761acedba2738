"""How each check of a site's security is made: one module for each system that is asked. None changes anything."""
