#!/bin/sh
# A mongod whose wall clock is off by what stands in the file `clock` beside its data ("+60s") when it starts; right, if
# there is none. Which mongod and which libfaketime: in the environment, see clocked.py.
data=
for given; do
    case $given in */data) data=$given ;; esac
done
if [ -f "${data%/data}/clock" ]; then
    FAKETIME=$(cat "${data%/data}/clock")
    LD_PRELOAD=$STREAMQ_FAKETIME
    FAKETIME_DONT_FAKE_MONOTONIC=1
    export FAKETIME LD_PRELOAD FAKETIME_DONT_FAKE_MONOTONIC
fi
exec "$STREAMQ_CLOCKED_MONGOD" "$@"
