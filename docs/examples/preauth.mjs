// What a program in JavaScript needs of preauth: to announce a token, to receive codes, to look one up.
//
//	npm ci
//	node preauth.mjs [component_appid]
//
// The NATS server is the one that NATS_URL names.

import { jetstream } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";

const appid = process.argv[2] ?? "wx0123456789abcdef";
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });

// A subscriber gets every code as it is announced. Here it waits for the first of one component.
const updates = nc.subscribe(`preauth.updated.${appid}`, { max: 1 });

// The token service announces a token; publish returns when the stream has stored it.
const token = { component_access_token: `61_${Date.now()}`, expires_in: 7200 };
await jetstream(nc).publish(`component.token.updated.${appid}`, JSON.stringify(token));

let seen = 0;
for await (const msg of updates) {
  const update = msg.json();
  seen = update.revision;
  console.log(`announced: revision ${update.revision} because of a ${update.cause}, until ${update.expires_at}`);
}

// Who sends an account's owner to WeChat looks the code up.
const request = { min_ttl: 60, min_revision: seen, redirect_uri: "https://example.com/authorized", auth_type: 3 };
const reply = await nc.request(`preauth.lookup.${appid}`, JSON.stringify(request), { timeout: 5000 });
const answer = reply.json();
if (reply.headers?.get("Nats-Service-Error-Code")) {
  console.log(`no code: ${answer.error.code} ${answer.error.message}, again at ${answer.error.retry_at}`);
} else {
  console.log(`looked up: revision ${answer.revision}, ${answer.expires_in} s left`);
  console.log(`redirect the browser to ${answer.links.pc.split("?")[0]}?…`); // the rest is a secret
}

await nc.drain();
