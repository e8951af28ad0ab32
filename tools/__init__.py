"The house: run notebooks, make the README and the site, practice copies of lessons. Run as `python -m tools.<name>`"
