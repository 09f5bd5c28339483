// What the tests share: a connection, and asking the micro service.
import assert from "node:assert/strict";
import { connect } from "@nats-io/transport-node";

export const SERVERS = process.env.NATS_URL;

export async function open() {
  return await connect({ servers: SERVERS });
}

/** An answer's value, and its error's code, reason and text. */
export function read(message) {
  const text = message.headers?.get("Nats-Service-Error") ?? "";
  return {
    value: message.data.length > 0 ? message.json() : null,
    code: Number(message.headers?.get("Nats-Service-Error-Code") || 0),
    reason: text.split(":")[0],
    text,
  };
}

export async function ask(nc, endpoint, body) {
  const data = typeof body === "string" ? body : JSON.stringify(body);
  return read(await nc.request(`jobs.rpc.${endpoint}`, data, { timeout: 40_000 }));
}

/** What the service answers when all is well. */
export async function done(nc, endpoint, body) {
  const answer = await ask(nc, endpoint, body);
  assert.equal(answer.code, 0, answer.text);
  return answer.value;
}

/** What `look` gives, once it gives something true. */
export async function eventually(look, within = 20_000) {
  const deadline = Date.now() + within;
  for (;;) {
    const found = await look();
    if (found) return found;
    assert.ok(Date.now() < deadline, "still not true");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export async function isIn(nc, jobId, status) {
  return await eventually(async () => (await done(nc, "status", { job_id: jobId })).status === status);
}
