"""What any room may need: threads and forks, secrets, reports, units, default paths.

Nothing here knows of audio, processors or entries. Import from the modules: there is no common face.
"""
