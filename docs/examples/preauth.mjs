// All that programs do with preauth, in JavaScript: announce a token, receive codes, claim a code for a
// visitor, announce that the visitor authorized, resolve the code, look up the current one. It needs
// Node.js 22 or later:
//
//	npm ci
//	node preauth.mjs [component_appid]
//
// NATS_URL names the NATS server; the default is nats://127.0.0.1:4222.

import { jetstream } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";

const appid = process.argv[2] ?? "wx0123456789abcdef";
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });

// A subscriber receives every code when it is announced. This one waits for the next code of one component.
const updates = nc.subscribe(`preauth.updated.${appid}`, { max: 1 });

// The token service announces a token. publish returns when the stream has stored it.
const token = { component_access_token: `61_${Date.now()}`, expires_in: 7200 };
await jetstream(nc).publish(`component.token.updated.${appid}`, JSON.stringify(token));

let seen = 0;
for await (const msg of updates) {
  const update = msg.json();
  seen = update.revision;
  console.log(`announced: revision ${update.revision} because of a ${update.cause}, until ${update.expires_at}`);
}

// ask sends a request and returns the answer. An answer that is an error has this header, and the
// details in its body.
async function ask(subject, request) {
  const reply = await nc.request(subject, JSON.stringify(request), { timeout: 5000 });
  const answer = reply.json();
  if (reply.headers?.get("Nats-Service-Error-Code")) {
    const { code, message, retry_at } = answer.error;
    throw new Error(`${code} ${message}${retry_at ? `, again at ${retry_at}` : ""}`);
  }
  return answer;
}

// Before you send a visitor to WeChat, claim a code for this visitor. The id makes the request safe to
// repeat. Ask for the minutes that a visitor needs; the codes of "make dev" live for 40 seconds.
const claim_id = `visitor-${Date.now()}`;
const links = { redirect_uri: "https://example.com/authorized", auth_type: 3 };
const claim = await ask(`preauth.claim.${appid}`, { claim_id, reference: "order 7", min_ttl: 20, ...links });
console.log(`claimed: ${claim.expires_in} s left`);
console.log(`redirect the browser to ${claim.links.pc.split("?")[0]}?…`); // the rest holds the code, a secret

// The receiver of WeChat's "authorized" push announces the authorization. Nobody gets the code again, and
// the service says whose it was.
const spent = nc.subscribe(`preauth.authorized.${appid}`, { max: 1 });
const authorization = { pre_auth_code: claim.pre_auth_code, authorizer_appid: "wx8888888888888888", info_type: "authorized" };
await jetstream(nc).publish(`component.authorized.${appid}`, JSON.stringify(authorization));
for await (const msg of spent) {
  const { authorizer_appid, reference } = msg.json();
  console.log(`authorized: ${authorizer_appid} for ${reference}`);
}

// The code leads back to the visitor.
const resolved = await ask("preauth.resolve", { pre_auth_code: claim.pre_auth_code });
console.log(`resolved: ${resolved.claim_id === claim_id ? "this visitor" : "another"}, ${resolved.reference}`);

// If any code will do, look up the current one. min_revision makes sure it is not older than the one seen.
const current = await ask(`preauth.lookup.${appid}`, { min_ttl: 20, min_revision: seen });
console.log(`looked up: revision ${current.revision}, ${current.expires_in} s left`);

await nc.drain();
