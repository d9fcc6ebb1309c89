// graphile-worker: LISTEN/NOTIFY. Two variants: its default (a job a fetch), and its documented batching with a local
// queue of 500. What is heard and said: bench/peers/talk.py.

import { createRequire } from "node:module";
import readline from "node:readline";
import { pathToFileURL } from "node:url";

// The packages lie where the run says, not beside this file.
const packages = createRequire(pathToFileURL(process.env.PEERS_NODE + "/package.json"));
const { Logger, makeWorkerUtils, run, runMigrations } = packages("graphile-worker");
const { Pool } = packages("pg");

const heard = { uri: process.env.PEERS_URI, ...JSON.parse(process.argv[2]) };
const say = (words) => process.stdout.write(JSON.stringify(words) + "\n");
const now = () => Number(process.hrtime.bigint());
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const logger = new Logger(() => (level, message) => {
  if (level === "error" || level === "warning") process.stderr.write(message + "\n");
});

// https://worker.graphile.org/docs/performance
const BATCHING = { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 };
const shared = { connectionString: heard.uri, maxPoolSize: 25, logger };

async function waitGo() {
  say({ ready: true });
  for await (const _ of readline.createInterface({ input: process.stdin })) break;
}

function about() {
  const version = (name) => packages(name + "/package.json").version;
  const batching = "localQueue.size 500, completeJobBatchDelay 0";
  say({
    versions: { "graphile-worker": version("graphile-worker"), pg: version("pg"), node: process.versions.node },
    settings:
      (heard.variant === "local" ? batching : "no batching (its default)") +
      "; concurrentJobs 24, maxPoolSize 25; add_jobs of 1,000",
    durability: "PostgreSQL fsync, synchronous_commit on",
    wake: "LISTEN/NOTIFY",
  });
}

async function prepare() {
  await runMigrations({ connectionString: heard.uri, logger });
}

async function putAtRate() {
  const utils = await makeWorkerUtils(shared);
  await utils.withPgClient((client) => client.query("select 1"));
  await waitGo();
  const began = now();
  const puts = [];
  for (let number = 0; number < heard.count; number++) {
    const due = began + Math.round((number / heard.rate) * 1e9);
    const ahead = (due - now()) / 1e6;
    if (ahead > 0) await sleep(ahead);
    puts.push(utils.addJob("noop", { at: ahead <= 0 && number ? due : now() }));
  }
  await Promise.all(puts);
  say({ began, ended: now() });
  await utils.release();
}

async function putMany() {
  const utils = await makeWorkerUtils(shared);
  await utils.withPgClient((client) => client.query("select 1"));
  await waitGo();
  const began = now();
  for (let start = 0; start < heard.count; start += 1000) {
    const jobs = [];
    const at = now();
    for (let n = start; n < Math.min(start + 1000, heard.count); n++)
      jobs.push({ identifier: "noop", payload: { at } });
    await utils.addJobs(jobs);
  }
  say({ began, ended: now() });
  await utils.release();
}

async function consume() {
  const until = performance.now() + heard.seconds * 1000;
  const pickups = [];
  let first = 0;
  let used = process.cpuUsage();
  let allHandled;
  let probed;
  const handled = new Promise((resolve) => (allHandled = resolve));
  const probe = new Promise((resolve) => (probed = resolve));
  const taskList = {
    noop: async ({ at }) => {
      const instant = now();
      first ||= instant;
      pickups.push(instant - at);
      if (pickups.length === heard.count) allHandled();
    },
    probe: async () => probed(),
  };
  const looking = new Pool({ connectionString: heard.uri, max: 1 });
  const runner = await run({
    ...shared,
    taskList,
    noHandleSignals: true,
    parsedCronItems: [],
    preset: { worker: { concurrentJobs: 24, maxPoolSize: 25, ...(heard.variant === "local" ? BATCHING : {}) } },
  });
  if (heard.waits) {
    // A task of one's own that runs: now this consumer hears of puts.
    await runner.addJob("probe", {});
    await probe;
    used = process.cpuUsage();
    say({ ready: true });
  }
  let over = false;
  await Promise.race([handled, sleep(until - performance.now()).then(() => (over = true))]);
  const none = "select not exists (select from graphile_worker._private_jobs) as none";
  while (!over && performance.now() < until && !(await looking.query(none)).rows[0].none) await sleep(2);
  const settled = now();
  used = process.cpuUsage(used);
  const listed = heard.pickups ? { pickups } : {};
  const handledCount = Math.min(pickups.length, heard.count);
  say({ first, settled, handled: handledCount, cpu_s: (used.user + used.system) / 1e6, ...listed });
  await runner.stop();
  await looking.end();
  process.exit(0);
}

const roles = { about, prepare, put_at_rate: putAtRate, put_many: putMany, consume };
await roles[heard.role]();
