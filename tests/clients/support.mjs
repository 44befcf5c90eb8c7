// What the scenarios share: clients of the server that the environment names, a back end, and patient waiting.

import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";

import Library from "pusher";
import Pusher from "pusher-js";

const DEADLINE_MS = 20_000;

const { PUSHER_HOST: host, PUSHER_PORT: port, PUSHER_MASTER_KEY: masterKey, DEBUG } = process.env;
const { PUSHER_APP_ID: appId, PUSHER_APP_KEY: key, PUSHER_APP_SECRET: secret } = process.env;

Pusher.logToConsole = Boolean(DEBUG);

/** The official server library with other credentials or options than the right ones. */
export const libraryWith = (options) =>
  new Library({ host, port, appId, key, secret, encryptionMasterKeyBase64: masterKey, ...options });

/** The official server library: publishes, asks and signs as a back end does. */
export const library = libraryWith({});

/** What leads pusher-js to the server under test and nowhere else. */
export const address = {
  key,
  cluster: "mt1",
  wsHost: host,
  wsPort: Number(port),
  forceTLS: false,
  enabledTransports: ["ws"],
  enableStats: false,
};

/** A name that no other scenario uses; the server is shared by all. */
export const unique = (prefix) => `${prefix}${randomUUID().slice(0, 8)}`;

/** What has been put in, taken out in order. */
export class Inbox {
  #items = [];
  #takers = [];
  #name;

  constructor(name) {
    this.#name = name;
  }

  put = (item) => {
    const taker = this.#takers.shift();
    if (taker) taker(item);
    else this.#items.push(item);
  };

  /** The next item; rejects when none comes in time. */
  next() {
    if (this.#items.length > 0) return Promise.resolve(this.#items.shift());
    return new Promise((resolve, reject) => {
      const late = () => reject(new Error(`${this.#name}: nothing came within ${DEADLINE_MS} ms`));
      const timer = setTimeout(late, DEADLINE_MS);
      this.#takers.push((item) => {
        clearTimeout(timer);
        resolve(item);
      });
    });
  }

  /** What has come and not been taken yet. */
  drain() {
    return this.#items.splice(0);
  }
}

/** The data of an event from now on. Bind before what causes the event: two frames may arrive in one turn. */
export function heard(source, event) {
  const inbox = new Inbox(event);
  source.bind(event, inbox.put);
  return inbox;
}

/** Every message that arrives for a channel, whether or not pusher-js has any use for it. */
export function arrivals(pusher, channel) {
  const inbox = new Inbox(`messages of ${channel}`);
  pusher.connection.bind("message", (message) => {
    if (message.channel === channel) inbox.put(message);
  });
  return inbox;
}

/** `{previous, current}` whenever the connection changes its state. */
export const states = (pusher) => heard(pusher.connection, "state_change");

/** The `{code, message}` of each error that the server reports. */
export function refusals(pusher) {
  const inbox = new Inbox("error of the server");
  pusher.connection.bind("error", (error) => inbox.put(error.data ?? error.error?.data));
  return inbox;
}

const authorizer = (member) => ({ socketId, channelName }, callback) =>
  callback(null, library.authorizeChannel(socketId, channelName, channelName.startsWith("presence-") ? member : undefined));

const authenticator = (user) => ({ socketId }, callback) => callback(null, library.authenticateUser(socketId, user));

/** pusher-js, authorized as `member` on presence channels and as `user` at sign-in. */
export function client({ member, user, ...options } = {}) {
  return new Pusher(key, {
    ...address,
    channelAuthorization: { customHandler: authorizer(member) },
    userAuthentication: { customHandler: authenticator(user) },
    ...options,
  });
}

/** A client that is connected, and disconnected after the scenario `t`. */
export async function connected(t, options) {
  const pusher = client(options);
  t.after(() => pusher.disconnect());
  await heard(pusher.connection, "connected").next();
  return pusher;
}

/** Subscribes, and waits for the success. */
export async function subscribed(pusher, name) {
  const channel = pusher.subscribe(name);
  await heard(channel, "pusher:subscription_succeeded").next();
  return channel;
}

/** Signs in, and waits until events to the user would arrive. */
export async function signedIn(pusher) {
  const success = heard(pusher, "pusher:signin_success");
  pusher.signin();
  await success.next();
  await settled(pusher);
}

/** Resolves when the server has handled all that this client has sent so far. */
export async function settled(pusher) {
  const pong = heard(pusher, "pusher:pong");
  pusher.send_event("pusher:ping", {});
  await pong.next();
}

/** Asks again until the answer is yes: for what the server does after it has answered. */
export async function eventually(condition) {
  const deadline = Date.now() + DEADLINE_MS;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`not so within ${DEADLINE_MS} ms: ${condition}`);
    await sleep(20);
  }
}

const TOKEN = "a token of the back end";

function answer(path, form, { member, user }) {
  const [socketId, channel] = [form.get("socket_id"), form.get("channel_name")];
  if (path === "/broadcasting/user-auth") return library.authenticateUser(socketId, user);
  return library.authorizeChannel(socketId, channel, channel.startsWith("presence-") ? member : undefined);
}

/** An application's back end as Laravel has it: `/broadcasting/auth` and `/broadcasting/user-auth`, with a bearer token. */
export async function backend(t, identity = {}) {
  const server = createServer(async (request, response) => {
    const form = new URLSearchParams(await text(request));
    const allowed = request.headers.authorization === `Bearer ${TOKEN}`;
    response.writeHead(allowed ? 200 : 403, { "Content-Type": "application/json" });
    response.end(JSON.stringify(allowed ? answer(request.url, form, identity) : { message: "Forbidden" }));
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  return { url: `http://127.0.0.1:${server.address().port}`, token: TOKEN };
}
