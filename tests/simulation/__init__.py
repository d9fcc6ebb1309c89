"""The whole runtime in virtual time, in one thread: what may happen in which order is drawn from a seed.

seed ─▶ plan (data) ─▶ run ─▶ history, what is stored ─▶ verdict
            │            producer, hosts: a trio loop each ─ wire, lagging ─▶ server (the store in memory)
            └──◀── made smaller while it still fails
"""
