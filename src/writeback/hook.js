// Keeps a page and its session together: `values` follow the server, `store` posts what the page changes, `relay` takes
// to the cookie what the server changed on an open socket. hook.d.ts says more. Lines of comment are not served.

const SHORTEST = 250, LONGEST = 30_000; // milliseconds
const NAMES = 64, UNITS = 5_000; // in one POST: 64 names and 16 KiB are taken, a UTF-16 unit has at most 3 bytes

export const connect = (options) => new LayeredSession(options);

class Backoff {
  failures = 0;
  timer;

  constructor(run) {
    this.run = run;
  }

  // Full jitter: the pages of a server that was away are not to come back in step.
  wait() {
    clearTimeout(this.timer);
    const most = Math.min(LONGEST, SHORTEST * 2 ** this.failures++);
    this.timer = setTimeout(() => {
      this.timer = undefined;
      this.run();
    }, Math.random() * most);
  }

  // Shortens the wait, but leaves one: a page that resumes at each conflict must not spin.
  resume() {
    this.failures = 0;
    this.timer ? this.wait() : this.run();
  }
}

class LayeredSession extends EventTarget {
  values = new Map();
  #url;
  #token; // only the newest: it holds all that the cookie lacks
  #order; // the newest turn token: a sign-in, a renewal or the removal of the cookie, once brought
  #events; // whether the page wants a stream
  #waiting = new Map(); // name to JSON text; not an object, for the sake of `__proto__`
  #inFlight = new Set(); // of batches; more than one only on the way out
  #posting = new Backoff(() => this.#pump());
  #conflict = false;
  #user; // whose values wait: an opaque word of the server's
  #listening = new Backoff(() => this.#listen());
  #source; // of events
  #live; // whether it is a session's, once it has said so
  #again = false; // a session may have begun while it was being opened
  #channel; // to other tabs
  #end = new AbortController();

  constructor({ url, events = true }) {
    super();
    this.#url = url.replace(/\/$/, '');
    const on = (type, listener) => addEventListener(type, listener, { signal: this.#end.signal });
    // Each tab hears of these by itself.
    const back = () => {
      this.#posting.resume();
      this.#renew();
    };
    on('online', back);
    on('offline', () => this.#hangUp());
    on('pagehide', () => {
      this.#flush();
      this.#hangUp(); // so that the page can be kept for the back button
    });
    on('pageshow', ({ persisted }) => persisted && back());
    this.#events = events;
    this.#channel = new BroadcastChannel(`layered-session ${this.#url}`);
    this.#channel.onmessage = ({ data }) => (data === 'turned' ? this.#turn() : this.#renew());
    this.#listen();
  }

  // Encodes at once: what is no JSON throws here and changes nothing.
  store(values) {
    const encoded = Object.entries(values).map(([name, value]) => [name, JSON.stringify(value)]);
    for (const [name, json] of encoded) if (json === undefined) throw new TypeError(`not JSON: ${name}`);
    for (const [name, json] of encoded) this.#waiting.set(name, json);
    this.#pump();
  }

  relay(token) {
    if (token.startsWith('t.')) this.#order = token;
    else this.#token = token;
    // After a conflict it is the new session's, and brings the cookie that the values wait for.
    this.#conflict ? this.#posting.resume() : this.#pump();
  }

  resume() {
    this.#posting.resume();
    this.#begun();
  }

  close() {
    this.#end.abort();
    this.#hangUp();
    this.#channel.close();
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  get #idle() {
    return this.#end.signal.aborted || navigator.onLine === false;
  }

  // ---- what the server says

  #listen() {
    if (!this.#events || this.#idle) return;
    const source = (this.#source = new EventSource(`${this.#url}/events`)), begun = Date.now();
    const on = (type, listener) => source.addEventListener(type, ({ data }) => listener(JSON.parse(data)));
    on('state', ({ session, user, values }) => {
      this.#live = session;
      this.#user ??= user;
      if (user !== this.#user) {
        this.#user = user;
        if (this.#waiting.size) this.#giveUp(this.#waiting);
      }
      this.#replace(values);
      if (this.#again) this.#renew();
      if (this.#conflict) this.#posting.resume();
    });
    on('set', (values) => this.#change(Object.entries(values)));
    on('removed', (names) => this.#change(names.map((name) => [name])));
    on('relay', (token) => this.relay(token));
    on('closed', (reason) => {
      // Nobody else is to be shown them.
      if (reason !== 'shutdown') this.#replace({});
      this.#emit('closed', { reason });
    });
    // By itself it retries without backoff, and not at all after an answer that is no stream.
    source.onerror = () => {
      if (Date.now() - begun > LONGEST) this.#listening.failures = 0;
      this.#hangUp();
      this.#listening.wait();
      this.#emit('lost');
    };
  }

  #hangUp() {
    this.#source?.close();
    this.#source = this.#live = undefined;
    this.#again = false;
  }

  #replace(values) {
    const gone = [...this.values.keys()].filter((name) => !Object.hasOwn(values, name));
    this.#change([...gone.map((name) => [name]), ...Object.entries(values)]);
  }

  #change(entries) {
    for (const [name, value] of entries) value === undefined ? this.values.delete(name) : this.values.set(name, value);
    this.#emit('change', { names: entries.map(([name]) => name) });
  }

  // A visitor's stream does not see the session that has come to be: the next one does, in every tab.
  #begun() {
    this.#channel.postMessage(null);
    this.#renew();
  }

  // The browser is in another session, or in none: nothing of the one before is to be shown or brought any more.
  #turn() {
    this.#token = this.#order = undefined;
    this.#conflict = false;
    // Without a stream the hook does not hear whose session it is now.
    if (!this.#events && this.#waiting.size) this.#giveUp(this.#waiting);
    this.#replace({});
    this.#hangUp();
    this.#listening.resume();
    this.#emit('turned');
  }

  #renew() {
    if (this.#live) return;
    if ((this.#again = this.#source && this.#live === undefined)) return;
    this.#hangUp();
    this.#listening.resume();
  }

  // ---- what the page says

  // One POST at a time: the server is to see the changes in their order.
  #pump() {
    if (this.#inFlight.size || this.#posting.timer || this.#idle) return;
    const next = this.#next();
    if (next) this.#post(next);
  }

  // There may be no later: better out of order than not at all.
  #flush() {
    for (let next; (next = this.#next()); ) this.#post(next);
  }

  // The order first, which holds all that a relay token would; then the token, which may bring the cookie without which
  // the values would start another session.
  #next() {
    if (this.#end.signal.aborted) return;
    const turn = this.#order, token = turn ?? this.#token, batch = new Map(), members = [];
    if (turn) this.#order = undefined;
    else this.#token = undefined;
    if (token !== undefined) return { token, batch, turn, body: JSON.stringify({ $relay: token }) };

    let room = UNITS;
    for (const [name, json] of this.#waiting) {
      const member = `${JSON.stringify(name)}:${json}`;
      room -= member.length;
      if (batch.size === NAMES || (batch.size && room < 0)) break;
      members.push(member);
      batch.set(name, json);
      this.#waiting.delete(name);
      for (const older of this.#inFlight) older.delete(name); // not to be tried again after this one
    }
    if (batch.size) return { batch, body: `{${members}}` };
  }

  async #post({ token, batch, turn, body }) {
    const headers = { 'content-type': 'application/json' }, user = this.#user;
    if (user !== undefined) headers['session-user'] = user;
    let status = 0, answer;
    this.#inFlight.add(batch);
    try {
      // It has room for 64 KiB.
      const response = await fetch(this.#url || '/', { method: 'POST', keepalive: body.length < 2e4, headers, body });
      status = response.status;
      answer = await response.json();
    } catch {
      // No answer, or a proxy's: the status says enough.
    }
    this.#inFlight.delete(batch);
    if (this.#end.signal.aborted) return;
    if (turn) this.#turned(token, status, Object(answer));
    else if (user === undefined || user === this.#user || status === 200) this.#settle(token, batch, status, Object(answer));
    else if (batch.size) this.#giveUp(batch);
    this.#pump();
  }

  #turned(token, status, { stored, code = `http_${status}`, message = '' }) {
    const refusal = { code, message, names: [] };
    if (status === 200 && Array.isArray(stored)) {
      this.#posting.failures = 0;
      this.#channel.postMessage('turned');
      this.#turn();
    } else if (status === 409) {
      this.#turn();
      this.#emit('conflict', refusal);
    } else if (status < 400 || status === 408 || status === 429 || status > 499) {
      this.#order ??= token;
      this.#posting.wait();
    } else this.#emit('refused', refusal);
  }

  // What was said by one user is not to be said by the next.
  #giveUp(batch, code = 'user_changed', message = '', names = [...batch.keys()]) {
    for (const name of names) batch.delete(name);
    this.#emit('refused', { code, message, names });
  }

  #settle(token, batch, status, { stored, ignored = [], code = `http_${status}`, message = '', names }) {
    names = Array.isArray(names) ? names : [];
    if (status === 200 && Array.isArray(stored)) {
      this.#posting.failures = 0;
      this.#conflict = false;
      this.#begun();
      this.#emit('stored', { stored, ignored });
    } else if (status === 409 && code !== 'user_changed') {
      // The token is another session's for good; the values are the page's, and a new cookie may come.
      this.#keep(batch);
      if (batch.size) {
        this.#conflict = true;
        this.#posting.wait();
      }
      this.#emit('conflict', { code, message, names });
    } else if (status < 400 || status === 408 || status === 429 || status > 499) {
      // A 200 too that is not the server's own, such as the login page behind a redirect.
      this.#keep(batch, token);
      this.#posting.wait();
    } else {
      // Values of several calls may have gone together: those at fault are given up, or all where none is named.
      names = names.filter((name) => batch.has(name));
      this.#giveUp(batch, code, message, names.length ? names : undefined);
      this.#keep(batch);
    }
  }

  // Newer ones win over what comes back.
  #keep(batch, token) {
    this.#token ??= token;
    this.#waiting = new Map([...batch, ...this.#waiting]);
  }
}
