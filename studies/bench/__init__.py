"""`study bench`: is the instrument right, and is it fast?

Every contender trains in fresh processes of its own, side by side with the others in one run; `command` is the way in
and loads no training library, what trains is loaded by the child processes alone.
"""
