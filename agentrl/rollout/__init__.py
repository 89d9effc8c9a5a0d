"""Task -> episode: the episode loop, groups of episodes, limits.

`episode` is the loop on one screen, `group` plays many at once, `seeds` makes every random choice a
function of what is played and never of when. Failures are data: nothing here lets one episode's error
reach another.
"""
