// The micro service, from another language.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Svcm } from "@nats-io/services";
import { ask, done, eventually, isIn, open, read } from "./client.js";

let nc;
before(async () => {
  nc = await open();
});
after(async () => {
  await nc.close();
});

const ENDPOINTS = ["cancel", "progress", "replay", "reschedule", "result", "status", "submit", "tenant-submit"];

test("it is discovered, with schemas", async () => {
  const client = new Svcm(nc).client();
  const found = [];
  for await (const info of await client.info("jobs")) found.push(info);
  assert.equal(found.length, 1);
  const [info] = found;
  assert.match(info.version, /^\d+\.\d+\.\d+/);
  assert.deepEqual(info.endpoints.map((endpoint) => endpoint.name).sort(), ENDPOINTS);
  const submit = info.endpoints.find((endpoint) => endpoint.name === "submit");
  assert.equal(submit.subject, "jobs.rpc.submit");
  assert.deepEqual(JSON.parse(submit.metadata.request_schema).required, ["type"]);
  assert.deepEqual(JSON.parse(submit.metadata.response_schema).required, ["job_id", "duplicate"]);
  for await (const ping of await client.ping("jobs", info.id)) assert.equal(ping.name, "jobs");
  for await (const stats of await client.stats("jobs", info.id)) assert.equal(stats.endpoints.length, ENDPOINTS.length);
});

test("submit, and the result", async () => {
  const request = {
    type: "context",
    payload: { list: [1, 2.5, "ü", null] },
    priority: "high",
    entity: "customer 42",
    dedupe_key: "order-7",
    max_attempts: 5,
    tenant: "acme",
    request_id: "r-1",
  };
  const receipt = await done(nc, "submit", request);
  assert.match(receipt.job_id, /^high-\d+$/);
  assert.equal(receipt.duplicate, false);
  assert.deepEqual(await done(nc, "submit", request), { ...receipt, duplicate: true });
  const { result } = await done(nc, "result", { job_id: receipt.job_id, timeout: 20 });
  const { payload, entity, tenant, request_id } = request;
  assert.deepEqual(result, { payload, entity, tenant, request_id, lane: "ordered" });
  const status = await done(nc, "status", { job_id: receipt.job_id });
  assert.deepEqual([status.status, status.priority, status.max_attempts], ["complete", "high", 5]);
});

test("a payload that is a list is one job", async () => {
  const { job_id } = await done(nc, "submit", { type: "echo", payload: [1, 2] });
  assert.deepEqual((await done(nc, "result", { job_id })).result, [1, 2]);
});

test("a tenant has a subject of its own", async () => {
  const { job_id } = await done(nc, "tenant.acme%20inc%2E.submit", { type: "context" });
  assert.equal((await done(nc, "result", { job_id })).result.tenant, "acme inc.");
  const refused = await ask(nc, "tenant.acme.submit", { type: "context", tenant: "other" });
  assert.deepEqual([refused.code, refused.reason], [400, "Validation"]);
});

test("progress is many answers, and an empty one", async () => {
  const { job_id } = await done(nc, "submit", { type: "steps", payload: 3 });
  const updates = [];
  const answers = await nc.requestMany("jobs.rpc.progress", JSON.stringify({ job_id }), {
    strategy: "sentinel",
    maxWait: 20_000,
  });
  for await (const message of answers) {
    const { value, code } = read(message);
    assert.equal(code, 0);
    if (value !== null) updates.push(value.message);
  }
  assert.deepEqual(updates, ["step 1", "step 2", "step 3"]);
});

test("cancel a waiting job", async () => {
  const first = await done(nc, "submit", { type: "sleep", payload: 60, priority: "low", duration: "long", entity: "e" });
  await isIn(nc, first.job_id, "processing");
  const second = await done(nc, "submit", { type: "echo", priority: "low", entity: "e" }); // it waits for the other
  const cancelled = await done(nc, "cancel", { job_id: second.job_id });
  assert.deepEqual([cancelled.job_id, cancelled.status, cancelled.attempts], [second.job_id, "cancelled", 0]);
  await done(nc, "cancel", { job_id: first.job_id });
});

test("a delayed job is moved, and run now", async () => {
  const { job_id } = await done(nc, "submit", { type: "echo", payload: 7, delay: 3600 });
  assert.match(job_id, /^at-/);
  const moved = await done(nc, "reschedule", { job_id, at: "2099-01-01T00:00:00Z" });
  assert.deepEqual([moved.status, moved.scheduled_for], ["queued", "2099-01-01T00:00:00Z"]);
  await done(nc, "reschedule", { job_id, now: true });
  assert.equal((await done(nc, "result", { job_id })).result, 7);
  const late = await ask(nc, "reschedule", { job_id, delay: 1 });
  assert.deepEqual([late.code, late.reason], [409, "Validation"]);
});

test("cancel a running job", async () => {
  const { job_id } = await done(nc, "submit", { type: "sleep", payload: 60, duration: "long" });
  await isIn(nc, job_id, "processing");
  const waiting = ask(nc, "result", { job_id });
  assert.equal((await done(nc, "cancel", { job_id, timeout: 20 })).status, "cancelled");
  const result = await waiting;
  assert.deepEqual([result.code, result.reason], [409, "AlreadyCancelled"]);
  const again = await ask(nc, "cancel", { job_id });
  assert.deepEqual([again.code, again.reason], [409, "AlreadyCancelled"]);
});

test("replay a dead job", async () => {
  const { job_id } = await done(nc, "submit", { type: "needs.replay", payload: { n: 1 } });
  const failed = await ask(nc, "result", { job_id });
  assert.deepEqual([failed.code, failed.text], [409, "Validation: not before somebody replays it"]);
  const replayed = await eventually(async () => {
    const answer = await ask(nc, "replay", { dlq_id: job_id }); // its letter comes to the table a moment later
    assert.ok([0, 404].includes(answer.code), answer.text);
    return answer.value;
  });
  assert.match(replayed.job_id, /^replay-/);
  assert.deepEqual((await done(nc, "result", { job_id: replayed.job_id })).result, { n: 1 });
  const again = await ask(nc, "replay", { dlq_id: job_id });
  assert.deepEqual([again.code, again.reason], [400, "Validation"]);
});

test("errors say their reason and code in headers", async () => {
  const { job_id: complete } = await done(nc, "submit", { type: "echo" });
  await done(nc, "result", { job_id: complete });
  const { job_id: unknown } = await done(nc, "submit", { type: "nobody.knows" });
  const { job_id: running } = await done(nc, "submit", { type: "sleep", payload: 60, duration: "long", priority: "high" });
  const cases = [
    ["submit", "{nope", 400, "Validation"],
    ["submit", "", 400, "Validation"],
    ["submit", [], 400, "Validation"],
    ["submit", { type: "two words" }, 400, "Validation"],
    ["submit", { type: "echo", delay: "5s" }, 400, "Validation"],
    ["status", { job_id: 7 }, 400, "Validation"],
    ["result", { job_id: complete, timeout: "1s" }, 400, "Validation"],
    ["status", { job_id: "normal-17" }, 404, "NotFound"],
    ["progress", { job_id: "nonsense" }, 404, "NotFound"],
    ["cancel", { job_id: "acme-17" }, 404, "NotFound"],
    ["replay", { dlq_id: "normal-17" }, 404, "NotFound"],
    ["result", { job_id: unknown }, 409, "HandlerMissing"],
    ["cancel", { job_id: complete }, 409, "Validation"],
    ["result", { job_id: running, timeout: 0.1 }, 503, "Timeout"],
  ];
  for (const [endpoint, body, code, reason] of cases) {
    const answer = await ask(nc, endpoint, body);
    assert.deepEqual([answer.code, answer.reason, answer.value], [code, reason, null], `${endpoint} ${JSON.stringify(body)}`);
  }
  await done(nc, "cancel", { job_id: running });
});
