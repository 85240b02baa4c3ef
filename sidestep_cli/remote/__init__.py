"""A workflow in a ComfyUI on another computer: songs up, progress watched, adapters down; over its HTTP routes only.

    command.py       flags, and the order of everything
    credentials.py   keys, from the environment or a prompt, never written anywhere
    server.py        requests, and the words for what goes wrong with them
    workflow.py      workflow files of both formats, checked against the server before anything is sent
    graph.py         a workflow as the page saves it -> the format of the server
    upload.py        songs up; what is there already is not sent again
    queued.py        workflows in the server's list and in its record: queued, found again, stopped
    watch.py         the workflow in the server's hands, from its start to its end, over lost connections and restarts
    download.py      adapters down; resumed, verified, whole or absent

Nothing is kept here between two calls: the same command finds its workflow on the server by its content.
"""
