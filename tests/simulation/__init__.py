"""A deterministic simulation of whole clusters: the real replica under a virtual clock, network and disk.

`python -m tests.simulation --help` runs it. One seed is one run; everything that is random comes from it.

=============  =========================================================================================
world          virtual time, events in order, the only source of chance
network        connections that break, are noticed late, swallow, park, double
disk           two stores per process that answer when they like; crashes leave a prefix
process        one node: a replica and the duties of its driver
machines       the small state machine that shows order, repetition and undone writes
workload       clients: operations sent again under one id, reads of three kinds
faults         what goes wrong, and the administrator who adds, removes and transfers
replacement    one member for another, as the product's reconciler does it
profiles       which of all that happens in which kind of run
checker        Raft's promises, from records, messages and public state; shares no code with the replica
reference      the one history that all must have, carried out by a plain reading of the rules
timekeeping    cluster time against true time
greylisting    what no triplet may ever be told
leasing        who may hold a lease, and believe that it does
notifying      what is published, seen to and read
listing        what is on the lists of the greylist
releasing      to whom held messages are handed out
requests       what clients ask of those four
resident       a node's part of the cluster's record, as the product's reconciler decides it
residents      all of them, and the administrator who lets in, removes and destroys
simulation     one run: trouble, then healing, then the final checks
mutation       each guard left out: what fails then
targets        what is promised with a figure
soak           hours of virtual time: is what is bounded flat?
=============  =========================================================================================
"""
