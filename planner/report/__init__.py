"""Plans and inputs for people: tables on the terminal."""
