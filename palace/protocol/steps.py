"""The names of the protocol's steps, as comments, traces (PALACE_TRACE) and the model use them.

The letter says which side acts, the number in which order; a step without a number may come at
any time.  What a step's line stands before or after, its place in the code says.

A broker becomes the owner (B):

    B1.open      it starts, and opens broker.lock
    B2.lock      it has the lock, and broker.lock still names the file that it locked
    B2.lost      another process has the lock: it leaves with exit code 75
    B3.held      `palace stop --hold` is in force: it leaves with exit code 79
    B4.fence     it has mempalace's own writer lock: here, or later, where stock had that, before B9
    B4.foreign   another palace has a data file that it needs: it leaves
    B4.data      it has the locks of the data files outside of the palace
    B5.epoch     its epoch is durable, larger than any before
    B6.bind      its socket has a name, and does not listen yet
    B6.deaf      it could not listen, and serves its own client alone (direct mode)
    B7.publish   its record is written
    B9.open      it begins to open the store; clients are welcomed meanwhile
    B9.ready     the store is open: calls run from here on
    B9.fail      the store could not be opened: it answers what waits, and leaves

It admits sessions (A):

    A.hello      it welcomes a session, by the name that the session keeps for life

It leaves (X); X1 has no line, since record and socket are removed in the loop's step of X0:

    X0.idle      it decides to leave: nothing was asked for idle_s
    X0.stop      it was told to: palace stop, or a signal
    X0.upgrade   a younger client has asked for room
    X0.failed    its engine could not be loaded
    X0.moved     the palace's directory is no longer where it was
    X0.away      another palace has the tables, and its clients are carried there
    X0.direct    the client whose child it is has ended
    X2.goodbye   it says goodbye to every session
    X4.hangup    it stops listening; what waited in the backlog was answered before (X3)
    X4.settled   all admitted work has ended
    X4.grace     some has not in time, and its outcome is unknown
    X5.close     the store is closed
    X5.abandon   the store is left as a crash would leave it
    X6.exit      it ends, which releases the lock
    fault        it gives up by an error that is none of the above

A shim reaches the owner (C):

    C.dial       it is about to say hello
    C2.welcome   it was welcomed, by an epoch that is not older than the last
    C3.reset     the connection ended before a welcome
    C3.silent    no welcome came in time: the owner is stopped or stuck
    C3.refused   it was refused, or turned away from an owner that was replaced
    C4.lost      its connection has ended: what is unsettled goes to the next owner
    C.goodbye    it has read the owner's goodbye
    C.leave      its client has closed its standard input
"""
