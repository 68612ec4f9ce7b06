// Keeps a page and its session together: `values` follow the server, `store` posts what the page changes, `relay` takes
// to the cookie what the server changed on an open socket. hook.d.ts says more. Lines of comment are not served.

const SHORTEST = 250, LONGEST = 30_000; // milliseconds
const SILENCE = 2.5; // heartbeats that may fail to come
const ANSWER = 1_500; // milliseconds, within which the leading tab answers
const NAMES = 64, UNITS = 5_000; // in one POST: 64 names and 16 KiB are taken, a UTF-16 unit has at most 3 bytes

export const connect = (options) => new LayeredSession(options);

class Backoff {
  failures = 0;
  timer;

  constructor(run) {
    this.run = run;
  }

  // `onLine` is wrong behind some virtual networks, so that it makes a wait longer and never forbids an attempt.
  wait() {
    this.#arm(navigator.onLine === false ? LONGEST : Math.min(LONGEST, SHORTEST * 2 ** this.failures));
    this.failures++;
  }

  // Shortens the wait, but leaves one: a page that resumes at each conflict must not spin.
  resume() {
    this.failures = 0;
    if (!this.timer) return this.run();
    this.#arm(SHORTEST);
    this.failures++;
  }

  // Full jitter: the pages of a server that was away are not to come back in step.
  #arm(most) {
    this.stop();
    this.timer = setTimeout(() => {
      this.timer = undefined;
      this.run();
    }, Math.random() * most);
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = undefined;
  }
}

// Runs once nothing was heard for a while. A machine that slept runs its timers late, and `look` counts by the clock.
class Watchdog {
  #bark;
  #since;
  #patience;
  #timer;

  constructor(bark) {
    this.#bark = bark;
  }

  hears(patience = this.#patience) {
    this.stop();
    this.#patience = patience;
    this.#since = Date.now();
    this.#timer = setTimeout(() => this.#bark(), patience);
  }

  look() {
    if (this.#timer && Date.now() - this.#since >= this.#patience) {
      this.stop();
      this.#bark();
    }
  }

  stop() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}

class LayeredSession extends EventTarget {
  values = new Map();
  #url;
  #credentials; // of requests, as `fetch` takes them
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
  #session; // the mark of the session that `values` are of, empty for a visitor's; none before a state
  #interval = 15_000; // milliseconds between heartbeats
  #silence = new Watchdog(() => this.#silent());
  #begunAt = 0; // when the last stream was opened
  #again = false; // a session may have begun while a stream was being opened
  #name; // of the channel and of the lock
  #channel; // to other tabs
  #shares = Boolean(navigator.locks); // whether tabs share a stream: locks need a secure context
  #candidacy; // for the lock
  #leads = false;
  #term = 0; // of the newest tab that leads: a tab that has lost the lock may not know yet
  #turns = 0; // how often the browser changed its session
  #toldAt = 0; // when this tab last said that a session may have begun
  #asked = false; // whether the leading tab has yet to answer
  #missed = []; // messages of the leading tab while this tab's own state is on its way
  #end = new AbortController();

  constructor({ url, events = true, credentials = 'same-origin' }) {
    super();
    this.#url = url.replace(/\/$/, '');
    this.#credentials = credentials;
    // Pages may spell one address in several ways. Streams with other credentials are of other sessions.
    this.#name = `layered-session ${new URL(this.#url || '/', document.baseURI)} ${credentials}`;
    this.#events = events;
    const on = (target, types, listener) => {
      for (const type of types) target.addEventListener(type, listener, { signal: this.#end.signal });
    };
    on(globalThis, ['online', 'focus'], () => this.#look());
    // A browser may be wrong about that: the next attempt shows it.
    on(globalThis, ['offline'], () => {
      if (!this.#source && this.#session === undefined) return;
      this.#hangUp();
      this.#listening.resume();
      this.#emit('lost', null);
    });
    on(globalThis, ['pagehide'], () => {
      this.#flush();
      this.#leave(); // so that the page can be kept for the back button
    });
    on(globalThis, ['pageshow'], ({ persisted }) => {
      if (!persisted) return;
      this.#join();
      // Turns of other tabs went unheard, and a hook without a stream does not learn of them by itself.
      this.#events ? this.#posting.resume() : this.#turn();
    });
    on(document, ['visibilitychange'], () => {
      if (!document.hidden) this.#look();
      else if (!this.#shares) this.#hangUp();
    });
    this.#join();
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
    this.#posting.stop();
    this.#leave();
  }

  #emit(type, detail) {
    if (!this.#closed) this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  get #closed() {
    return this.#end.signal.aborted;
  }

  // ---- what the server says

  // Every tab takes its first state from a stream of its own, with its own cookie. Then the tab that leads keeps its
  // stream and tells the others: over HTTP/1.1 a browser opens six connections to a host, for all tabs together.
  #listen() {
    if (!this.#events || this.#closed || !this.#channel) return;
    if (document.hidden && !this.#shares) return;
    this.#hangUp();
    const withCredentials = this.#credentials === 'include';
    const source = (this.#source = new EventSource(`${this.#url}/events`, { withCredentials }));
    this.#begunAt = Date.now();
    this.#silence.hears(this.#interval * SILENCE);
    for (const type of ['state', 'set', 'removed', 'relay', 'closed', 'heartbeat']) {
      source.addEventListener(type, (event) => {
        if (source === this.#source) this.#hear(type, JSON.parse(event.data));
      });
    }
    // By itself it retries without backoff, and not at all after an answer that is no stream.
    source.onerror = () => {
      if (source === this.#source) this.#lose(source.readyState === 2);
    };
  }

  #hear(type, data) {
    if (type === 'state') {
      this.#session = data.session;
      this.#interval = data.heartbeat;
      this.#meet(data.user);
    }
    this.#silence.hears(this.#interval * SILENCE);
    if (type === 'relay') return this.relay(data);
    if (this.#leads) this.#say(type, data);
    if (type === 'state' && this.#shares && !this.#leads) this.#follow(data);
    else this.#take(type, data);
  }

  #take(type, data) {
    if (type === 'state') this.#state(data);
    else if (type === 'set') this.#change(Object.entries(data));
    else if (type === 'removed') this.#change(data.map((name) => [name]));
    else if (type === 'closed') {
      // The values of the session that has ended stay hidden from the next user.
      if (data !== 'shutdown') this.#replace({});
      this.#emit('closed', { reason: data });
      this.#lose();
    }
  }

  #meet(user) {
    this.#user ??= user;
    if (user === this.#user) return;
    this.#user = user;
    if (this.#waiting.size) this.#giveUp(this.#waiting);
  }

  #state({ values }) {
    this.#replace(values);
    if (this.#again) this.#renew();
    if (this.#conflict) this.#posting.resume();
  }

  #hangUp() {
    this.#source?.close();
    this.#source = this.#session = undefined;
    this.#silence.stop();
    this.#missed = [];
    this.#again = false;
  }

  #retry() {
    if (this.#closed) return;
    if (Date.now() - this.#begunAt > LONGEST) this.#listening.failures = 0;
    this.#hangUp();
    this.#listening.wait();
  }

  async #lose(refused) {
    if (this.#leads) this.#say('lost');
    this.#retry();
    const reason = refused ? await this.#reason() : null;
    if (!this.#closed && this.#session === undefined) this.#emit('lost', reason);
  }

  // An EventSource does not say why it failed.
  async #reason() {
    const stop = new AbortController();
    try {
      const headers = { accept: 'text/event-stream' }, { signal } = stop, credentials = this.#credentials;
      const answer = await fetch(`${this.#url}/events`, { headers, signal, credentials });
      if (answer.ok) return null;
      const { code, message } = await answer.json();
      return { code, message };
    } catch {
      return null;
    } finally {
      stop.abort();
    }
  }

  #silent() {
    if (this.#source) this.#lose();
    else if (this.#asked) this.#stand(true);
    else this.#ask();
  }

  // Timers of a page that slept, or was hidden, come late or not at all.
  #look() {
    this.#posting.resume();
    this.#silence.look();
    // A tab that left before the answer to its first store could not say that a session has begun.
    if (this.#session === '' && Date.now() - this.#begunAt > ANSWER) return this.#renew();
    if (this.#source) return;
    if (this.#session === undefined) this.#listening.resume();
    else this.#ask();
  }

  #replace(values) {
    const gone = [...this.values.keys()].filter((name) => !Object.hasOwn(values, name));
    this.#change([...gone.map((name) => [name]), ...Object.entries(values)]);
  }

  #change(entries) {
    for (const [name, value] of entries) value === undefined ? this.values.delete(name) : this.values.set(name, value);
    this.#emit('change', { names: entries.map(([name]) => name) });
  }

  // A visitor's stream does not see the session that has come to be: the next stream does, in every tab.
  #begun() {
    // Pages that resume at `begun` would call each other without end.
    if (Date.now() - this.#toldAt >= SHORTEST) {
      this.#toldAt = Date.now();
      this.#say('begun');
    }
    this.#renew();
  }

  // The browser is in another session, or in none: nothing of the one before is to be shown or brought any more.
  #turn() {
    this.#turns++;
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
    if (this.#session) return;
    if ((this.#again = this.#source && this.#session === undefined)) return;
    this.#hangUp();
    this.#listening.resume();
  }

  // ---- between tabs

  #join() {
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#heard(data);
    this.#stand();
    this.#listen();
  }

  #leave() {
    this.#hangUp();
    this.#listening.stop();
    this.#resign();
    this.#channel?.close();
    this.#channel = undefined;
  }

  #say(type, data) {
    this.#channel?.postMessage({ type, data, session: this.#session, user: this.#user, term: this.#term });
  }

  #heard({ type, data, session, user, term }) {
    const agrees = session === this.#session && user === this.#user;
    if (type === 'turned') this.#turn();
    else if (type === 'begun') {
      if (!this.#session) this.#emit('begun', null);
      if (this.#events) this.#renew();
    } else if (type === 'ask') {
      if (this.#leads) this.#answer(agrees);
    } else if (this.#leads) {
      if (term > this.#term) this.#yield();
    } else if (term >= this.#term) {
      this.#term = term;
      if (this.#source) this.#session ?? this.#missed.push({ type, data, session, user });
      else if (this.#session !== undefined) this.#led(type, data, user, agrees);
    }
  }

  #led(type, data, user, agrees) {
    this.#asked = false;
    this.#silence.hears(this.#interval * SILENCE);
    if (type === 'soon') return;
    if (type === 'lost') return this.#lose(); // its tab may not know its user yet
    if (agrees) return this.#take(type, data);
    // The values of the user before stay hidden from this user.
    if (user !== this.#user) this.#replace({});
    this.#lose();
  }

  // The marks of a tab that has just been given its state are newer than those of a long stream. A frozen page hears the
  // channel while its timers and its stream stand still: `look` counts the silence by the clock.
  #answer(agrees) {
    this.#silence.look();
    if (!this.#source) this.#listening.resume();
    else if (agrees) this.#say('here');
    else if (this.#session === undefined) this.#say('soon');
    else this.#retry();
  }

  // This tab's own state is the base; messages that came while the state was on its way follow it.
  #follow(state) {
    const missed = this.#missed;
    this.#source.close();
    this.#source = undefined;
    this.#missed = [];
    this.#state(state);
    for (const { type, data, session, user } of missed) {
      if (session === this.#session && user === this.#user) this.#take(type, data);
    }
    if (this.#session !== undefined) this.#ask();
  }

  #ask() {
    this.#asked = true;
    this.#silence.hears(ANSWER * (1 + Math.random())); // so that one tab steals, and not all
    this.#say('ask');
  }

  // The holder of the lock leads. A page that is blocked holds the lock and does not answer, so that the lock can be
  // stolen.
  #stand(steal) {
    if (!this.#events || !this.#shares) return;
    this.#resign();
    const { signal } = (this.#candidacy = new AbortController());
    const lead = () => {
      if (signal.aborted) return;
      this.#leads = true;
      this.#term = Math.max(Date.now(), this.#term + 1);
      this.#say('soon');
      if (!this.#source && !this.#listening.timer) this.#listen();
      return new Promise((release) => signal.addEventListener('abort', release));
    };
    navigator.locks.request(this.#name, steal ? { steal } : { signal }, lead).catch(() => {
      if (signal.aborted) return;
      if (this.#leads) return this.#yield();
      this.#shares = false; // the browser has no locks for this page
      if (!this.#source) this.#retry();
    });
  }

  // Another tab has stolen the lock, as this tab did not answer.
  #yield() {
    this.#stand();
    this.#retry();
  }

  #resign() {
    this.#candidacy?.abort();
    this.#leads = false;
  }

  // ---- what the page says

  // One POST at a time: the server is to see the changes in their order.
  #pump() {
    if (this.#inFlight.size || this.#posting.timer || this.#closed) return;
    const next = this.#next();
    if (next) this.#post(next);
  }

  // A page that is left sends all at once: out of order is better than not at all.
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
    const headers = { 'content-type': 'application/json' }, user = this.#user, turns = this.#turns;
    if (user !== undefined) headers['session-user'] = user;
    let status = 0, answer;
    this.#inFlight.add(batch);
    try {
      // Requests with `keepalive` have room for 64 KiB in all.
      const keepalive = body.length < 2e4, credentials = this.#credentials;
      const response = await fetch(this.#url || '/', { method: 'POST', keepalive, headers, body, credentials });
      status = response.status;
      answer = await response.json();
    } catch {
      // No answer, or a proxy's: the status says enough.
    }
    this.#inFlight.delete(batch);
    if (this.#end.signal.aborted) return;
    if (turn) this.#turned(token, status, Object(answer));
    else {
      // The word of one user is not kept for the next, nor a token of the session before.
      const kept = turns === this.#turns, same = user === undefined ? kept : user === this.#user;
      if (same || status === 200) this.#settle(kept ? token : undefined, batch, status, Object(answer));
      else if (batch.size) this.#giveUp(batch);
    }
    this.#pump();
  }

  #turned(token, status, { stored, code = `http_${status}`, message = '' }) {
    const refusal = { code, message, names: [] };
    if (status === 200 && Array.isArray(stored)) {
      this.#posting.failures = 0;
      this.#say('turned');
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
      if (stored.length) this.#begun();
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
