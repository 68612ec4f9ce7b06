// Carries a page's changes (`store`), and what the server gave it to carry (`relay`), into the session and its cookie.
// Events: `stored` {stored}; `conflict` {code, message, names}, the session has ended or was renewed, values are kept
// and tried again; `refused` {code, message, names}, the values of these names are given up.

const SHORTEST = 250, LONGEST = 30_000; // milliseconds
const NAMES = 64, UNITS = 5_000; // in one POST: 64 names and 16 KiB are taken, a UTF-16 unit has at most 3 bytes

export const connect = ({ url }) => new LayeredSession(url);

class LayeredSession extends EventTarget {
  #url;
  #token; // only the newest: it holds all that the cookie lacks
  #values = new Map(); // name to JSON text; not an object, for the sake of `__proto__`
  #inFlight = new Set(); // of batches; more than one only on the way out
  #timer;
  #failures = 0;
  #conflict = false;
  #end = new AbortController();

  constructor(url) {
    super();
    this.#url = url;
    const on = (type, listener) => globalThis.addEventListener?.(type, listener, { signal: this.#end.signal });
    on('online', () => this.resume());
    on('pagehide', () => this.#flush());
  }

  // Encodes at once: what is no JSON throws here and changes nothing, and the page may go on with its objects.
  store(values) {
    const encoded = Object.entries(values).map(([name, value]) => [name, JSON.stringify(value)]);
    for (const [name, json] of encoded) if (json === undefined) throw new TypeError(`not JSON: ${name}`);
    for (const [name, json] of encoded) this.#values.set(name, json);
    this.#pump();
  }

  relay(token) {
    this.#token = token;
    // After a conflict it is the new session's, and brings the cookie that the values wait for.
    this.#conflict ? this.resume() : this.#pump();
  }

  // Shortens the wait, but leaves one: a page that resumes at each conflict must not spin.
  resume() {
    this.#failures = 0;
    this.#timer ? this.#wait() : this.#pump();
  }

  // Gives up what waits, and announces nothing any more.
  close() {
    this.#end.abort();
    clearTimeout(this.#timer);
  }

  // One POST at a time: the server is to see the changes in their order.
  #pump() {
    if (this.#inFlight.size || this.#timer || globalThis.navigator?.onLine === false) return;
    const next = this.#next();
    if (next) this.#post(next);
  }

  // There may be no later: better out of order than not at all.
  #flush() {
    for (let next; (next = this.#next()); ) this.#post(next);
  }

  // The token first: it may bring the cookie without which the values would start another session.
  #next() {
    if (this.#end.signal.aborted) return;
    const token = this.#token, batch = new Map(), members = [];
    this.#token = undefined;
    if (token !== undefined) return { token, batch, body: JSON.stringify({ $relay: token }) };

    let room = UNITS;
    for (const [name, json] of this.#values) {
      const member = `${JSON.stringify(name)}:${json}`;
      room -= member.length;
      if (batch.size === NAMES || (batch.size && room < 0)) break;
      members.push(member);
      batch.set(name, json);
      this.#values.delete(name);
      for (const older of this.#inFlight) older.delete(name); // not to be tried again after this one
    }
    if (batch.size) return { batch, body: `{${members}}` };
  }

  async #post({ token, batch, body }) {
    const headers = { 'content-type': 'application/json' };
    let status = 0, answer;
    this.#inFlight.add(batch);
    try {
      const init = { method: 'POST', credentials: 'same-origin', keepalive: true, headers, body };
      const response = await fetch(this.#url, init);
      status = response.status;
      answer = await response.json();
    } catch {
      // No answer, or a proxy's: the status says enough.
    }
    this.#inFlight.delete(batch);
    if (this.#end.signal.aborted) return;
    this.#settle(token, batch, status, Object(answer));
    this.#pump();
  }

  #settle(token, batch, status, { stored, code = `http_${status}`, message = '', names }) {
    const emit = (type, detail) => this.dispatchEvent(new CustomEvent(type, { detail }));
    names = Array.isArray(names) ? names : [];
    if (status === 200 && Array.isArray(stored)) {
      this.#failures = 0;
      this.#conflict = false;
      emit('stored', { stored });
    } else if (status === 409) {
      // The token is another session's for good; the values are the page's, and a new cookie may come.
      this.#keep(batch);
      if (batch.size) {
        this.#conflict = true;
        this.#wait();
      }
      emit('conflict', { code, message, names });
    } else if (status < 400 || status === 408 || status === 429 || status > 499) {
      // A 200 too that is not the server's own, such as the login page behind a redirect.
      this.#keep(batch, token);
      this.#wait();
    } else {
      // Values of several calls may have gone together: those at fault are given up, or all where none is named.
      names = names.filter((name) => batch.has(name));
      if (!names.length) names = [...batch.keys()];
      for (const name of names) batch.delete(name);
      this.#keep(batch);
      emit('refused', { code, message, names });
    }
  }

  // Newer ones win over what comes back.
  #keep(batch, token) {
    this.#token ??= token;
    this.#values = new Map([...batch, ...this.#values]);
  }

  // Full jitter: the pages of a server that was away must not come back in step.
  #wait() {
    clearTimeout(this.#timer);
    const most = Math.min(LONGEST, SHORTEST * 2 ** this.#failures++);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#pump();
    }, Math.random() * most);
  }
}
