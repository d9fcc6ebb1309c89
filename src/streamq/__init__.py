"""streamq: an event-driven task queue in the application's own MongoDB, for trio.

This is the public door; what is not named here may change. `streamq.embedded` (a real mongod of one's own) and
`streamq.testing` (an app in memory) are doors of their own.
"""

from __future__ import annotations

from streamq.app import StreamQ
from streamq.blocking import Blocking, BlockingHandler, BlockingQueue, BlockingTask
from streamq.blocking_desk import BlockingDesk
from streamq.core.cancelled import CancelReport
from streamq.core.checkup import Checkup, Finding
from streamq.core.coding import Codec, CodecContext
from streamq.core.limits import Rate
from streamq.core.new_task import NewTask, PutReply
from streamq.core.options import PutOptions
from streamq.core.priority import Priority
from streamq.core.report import Progress
from streamq.core.requeued import Requeued, RequeueReport
from streamq.core.retry import Retry
from streamq.core.roles import Role
from streamq.core.schedule import ScheduleInfo
from streamq.core.sharing import Shared
from streamq.core.signals import CancelTask, RetryAfter, Snooze, TransactionAborted
from streamq.core.unclaimed import Unclaimed
from streamq.core.view import TaskView
from streamq.core.workers import WorkerView
from streamq.desk import Desk
from streamq.errors import (
    AccessRefused,
    ClaimError,
    EmbeddedError,
    InsecureConnection,
    LeaseLost,
    NotAReplicaSet,
    OptionInvalid,
    OutcomeUnknown,
    PayloadInvalid,
    PayloadTooLarge,
    PayloadUndecodable,
    PutStopped,
    PutUnknown,
    ResultTimeout,
    ServerTooOld,
    StoreError,
    StoreUnavailable,
    StreamQError,
    TaskError,
    TaskFailed,
    TaskGone,
    TaskRunning,
    TaskTimeout,
    UniqueConflict,
    UsageError,
)
from streamq.handle import Handle
from streamq.handler import Handler
from streamq.queue import Queue
from streamq.runtime.consumer import Task, Tasks
from streamq.runtime.current import TaskInfo, current_task, progress, progress_in_thread
from streamq.runtime.place import run_in_transaction, transaction
from streamq.runtime.transaction import Transaction

__all__ = [
    "AccessRefused",
    "Blocking",
    "BlockingDesk",
    "BlockingHandler",
    "BlockingQueue",
    "BlockingTask",
    "CancelReport",
    "CancelTask",
    "Checkup",
    "ClaimError",
    "Codec",
    "CodecContext",
    "Desk",
    "EmbeddedError",
    "Finding",
    "Handle",
    "Handler",
    "InsecureConnection",
    "LeaseLost",
    "NewTask",
    "NotAReplicaSet",
    "OptionInvalid",
    "OutcomeUnknown",
    "PayloadInvalid",
    "PayloadTooLarge",
    "PayloadUndecodable",
    "Priority",
    "Progress",
    "PutOptions",
    "PutReply",
    "PutStopped",
    "PutUnknown",
    "Queue",
    "Rate",
    "RequeueReport",
    "Requeued",
    "ResultTimeout",
    "Retry",
    "RetryAfter",
    "Role",
    "ScheduleInfo",
    "ServerTooOld",
    "Shared",
    "Snooze",
    "StoreError",
    "StoreUnavailable",
    "StreamQ",
    "StreamQError",
    "Task",
    "TaskError",
    "TaskFailed",
    "TaskGone",
    "TaskInfo",
    "TaskRunning",
    "TaskTimeout",
    "TaskView",
    "Tasks",
    "Transaction",
    "TransactionAborted",
    "Unclaimed",
    "UniqueConflict",
    "UsageError",
    "WorkerView",
    "current_task",
    "progress",
    "progress_in_thread",
    "run_in_transaction",
    "transaction",
]
