"""Images named by URLs are fetched here, before training and outside it; training reads what the manifest says.

    run.py        the process that `tunestudy fetch` starts
    engine.py     shards in, manifests out; what it takes from the others:
    turns.py      which URL is next, fairly between hosts
    outage.py     hosts that do not answer, and a network that is not there
    download.py   one attempt at one URL
    addresses.py  which hosts may be asked at all
    examine.py    whether bytes are an image that can be used
    store.py      images by their content
    manifest.py   what became of each record, and the journal of a shard under way
    shard.py      one shard: what it wants, what it knows, when it is complete
    files.py      the files of all shards under way
    progress.py   a bar, or lines, and the table at the end
    wanted.py     the URLs of a record, and the records as training reads them

Source of the failure modes: the open issues of img2dataset, and the server-side request forgeries found in trainers
that fetch images (LLaMA-Factory#10646, ms-swift#9741).
"""
