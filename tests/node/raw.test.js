// What any NATS client can do without the micro service: publish a job, follow its entry and its progress.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { jetstream } from "@nats-io/jetstream";
import { Kvm } from "@nats-io/kv";
import { headers } from "@nats-io/transport-node";
import { ask, done, open } from "./client.js";

let nc;
before(async () => {
  nc = await open();
});
after(async () => {
  await nc.close();
});

test("the acknowledgement of a published job is its receipt", async () => {
  const js = jetstream(nc);
  const job = { to: "eve@example.org" };
  const ack = await js.publish("jobs.critical.customer-42.email.send", JSON.stringify(job), { msgID: "raw-1" });
  const jobId = `critical-${ack.seq}`;
  assert.equal(ack.duplicate, false);
  assert.deepEqual(await done(nc, "result", { job_id: jobId }), { job_id: jobId, result: job });
  const again = await js.publish("jobs.critical.customer-42.email.send", JSON.stringify(job), { msgID: "raw-1" });
  assert.deepEqual([again.duplicate, again.seq], [true, ack.seq]);
});

test("a job without an entity is published on the parallel lane, under a tenant's key or none", async () => {
  const js = jetstream(nc);
  const ack = await js.publish("jobs.parallel.normal.-.email.send", '{"to": "eve@example.org"}', { msgID: "raw-2" });
  const jobId = `normal-parallel-${ack.seq}`;
  assert.deepEqual((await done(nc, "result", { job_id: jobId })).result, { to: "eve@example.org" });
  const again = await js.publish("jobs.parallel.normal.-.email.send", "1", { msgID: "raw-2" });
  assert.deepEqual([again.duplicate, again.seq], [true, ack.seq]);

  const named = headers();
  named.set("Jsjobs-Tenant", "acme");
  const tenants = await js.publish("jobs.parallel.high.acme.context", "[1]", { headers: named });
  const { result } = await done(nc, "result", { job_id: `high-parallel-${tenants.seq}` });
  assert.deepEqual(result, { payload: [1], entity: null, tenant: "acme", request_id: null, lane: "parallel" });
});

test("a job with an entity's name is dead on the parallel lane", async () => {
  const named = headers();
  named.set("Jsjobs-Entity", "customer 42");
  const ack = await jetstream(nc).publish("jobs.parallel.normal.-.context", "[1]", { headers: named });
  const { code, reason } = await ask(nc, "result", { job_id: `normal-parallel-${ack.seq}` });
  assert.deepEqual([code, reason], [409, "Validation"]);
});

test("a job of the parallel lane is delayed by a schedule", async () => {
  const jobId = `at-${crypto.randomUUID()}`;
  const due = new Date(Math.ceil(Date.now() / 1000) * 1000 + 1000);
  const schedule = headers();
  schedule.set("Nats-Schedule", `@at ${due.toISOString().replace(".000Z", "Z")}`);
  schedule.set("Nats-Schedule-Target", "jobs.due.parallel.low.-.context");
  schedule.set("Jsjobs-Id", jobId);
  await jetstream(nc).publish(`jobs.at.${jobId}`, '"later"', { headers: schedule });
  assert.equal((await done(nc, "status", { job_id: jobId })).status, "queued");
  const { result } = await done(nc, "result", { job_id: jobId });
  assert.deepEqual([result.payload, result.lane], ["later", "parallel"]);
  assert.ok(Date.now() >= due.getTime(), "not early");
});

test("headers name the entity, the tenant and the request", async () => {
  const named = headers();
  named.set("Jsjobs-Entity", "customer 42");
  named.set("Jsjobs-Tenant", "acme");
  named.set("Jsjobs-Request-Id", "r-1");
  const ack = await jetstream(nc).publish("jobs.high.customer%2042.context", "[1]", { headers: named });
  const { result } = await done(nc, "result", { job_id: `high-${ack.seq}` });
  assert.deepEqual(result, {
    payload: [1],
    entity: "customer 42",
    tenant: "acme",
    request_id: "r-1",
    lane: "ordered",
  });
});

test("a job's entry can be watched until it has ended", async () => {
  const kv = await new Kvm(nc).open("jobs");
  const ack = await jetstream(nc).publish("jobs.normal.customer-42.sleep", "0.3");
  const jobId = `normal-${ack.seq}`;
  const seen = [];
  const watch = await kv.watch({ key: jobId });
  for await (const entry of watch) {
    const job = entry.json();
    seen.push(job.status);
    if (["complete", "failed", "cancelled"].includes(job.status)) break;
  }
  assert.deepEqual(seen, ["processing", "complete"].slice(-seen.length));
  const entry = await kv.get(jobId);
  const { job_id, status, result, attempts, type, history } = entry.json();
  assert.deepEqual([job_id, status, result, attempts, type], [jobId, "complete", "slept", 1, "sleep"]);
  assert.deepEqual(history.map((item) => item.status), ["processing", "complete"]);
});

test("progress is a subject", async () => {
  const updates = [];
  const subscription = nc.subscribe("jobs.progress.*", { timeout: 20_000 });
  await nc.flush();
  const ack = await jetstream(nc).publish("jobs.low.e.steps", "3");
  for await (const message of subscription) {
    if (message.subject !== `jobs.progress.low-${ack.seq}`) continue;
    const update = message.json();
    updates.push([Math.round(update.pct), update.message]);
    if (update.pct === 100) break;
  }
  assert.deepEqual(updates, [[33, "step 1"], [67, "step 2"], [100, "step 3"]]);
});
