// Shows the server's cart. Buttons write by plain requests, and the events bring each new cart to every tab of the
// browser.
import { connect } from '/session/hook.js';

const PATIENCE = 800; // ms: the page does not mention a connection that returns earlier

const element = (id) => document.getElementById(id);
const session = connect({ url: '/session' });
const euros = new Intl.NumberFormat('en-IE', { style: 'currency', currency: 'EUR' });
const products = new Map();

for (const card of document.querySelectorAll('.product')) {
  const { product, name, cents, hue } = card.dataset;
  products.set(Number(product), { name, cents: Number(cents), hue });
  card.style.setProperty('--hue', hue);
  card.querySelector('.add').addEventListener('click', () => add(Number(product)));
}
element('empty').addEventListener('click', () => change('DELETE', '/cart'));

// ---- the events

session.addEventListener('change', ({ detail }) => {
  connection('open', 'Live');
  if (detail.names.includes('cart') || !session.values.has('cart')) show(session.values.get('cart'));
});
session.addEventListener('lost', async ({ detail }) => {
  const offline = navigator.onLine === false;
  const cause = detail ? `The server refuses to keep this page up to date: ${detail.message}.`
    : offline ? 'You are offline.' : 'No connection to the shop.';
  connection('closed', offline ? 'Offline' : 'Not live', `${cause} Changes from other tabs may be missing.`);
  if (shown) return;
  const answer = await request('GET', '/cart');
  if (answer?.ok && !shown) show(await answer.json());
});
session.addEventListener('closed', ({ detail: { reason } }) => {
  if (reason === 'expired') say('notice', 'This cart was not touched for too long, and is gone.');
});

let loss = '';
let delay;

function connection(state, text, lost = '') {
  document.body.dataset.connection = state;
  say('connection', text);
  loss = lost;
  if (!loss || element('lost').textContent) say('lost', loss);
  delay ??= setTimeout(() => {
    delay = undefined;
    say('lost', loss);
  }, PATIENCE);
}

// ---- requests

const add = (product_id) => change('POST', '/cart', { product_id });

async function change(method, path, body) {
  const answer = await request(method, path, body);
  say('notice', answer?.ok ? '' : answer ? `The cart is unchanged: ${await answer.text()}.` : 'The shop does not answer.');
  if (!answer?.ok) return;
  // Events come in the order of the changes, and answers in any order. Without events, the page shows the answer.
  if (document.body.dataset.connection !== 'open') show(await answer.json());
  session.resume(); // the first request began a session: a stream of that session is needed
}

function request(method, path, body) {
  const headers = body && { 'content-type': 'application/json' };
  return fetch(path, { method, headers, body: body && JSON.stringify(body) }).catch(() => null);
}

// ---- the cart

let shown; // the quantity of each product, once the server has sent a cart

function show(cart) {
  const items = cart?.items ?? [];
  const quantities = new Map(items.map(({ product_id, quantity }) => [product_id, quantity]));
  const cents = items.reduce((sum, { product_id, quantity }) => sum + quantity * products.get(product_id).cents, 0);
  const count = items.reduce((sum, { quantity }) => sum + quantity, 0);
  const total = euros.format(cents / 100);

  put(items);
  element('count').textContent = count;
  element('nothing').textContent = 'Nothing in it yet.';
  element('nothing').hidden = count > 0;
  for (const id of ['total', 'empty', 'forget']) element(id).hidden = count === 0;
  element('total').querySelector('b').textContent = total;
  element('sum').textContent = count ? `${count} ${count === 1 ? 'item' : 'items'}, ${total}` : '';
  if (shown) announce(news(shown, quantities));
  shown = quantities;
  bar();
}

// Describes the change from one cart to the next.
function news(before, now) {
  if (before.size && !now.size) return 'The cart is empty';
  const ids = [...products.keys()].filter((id) => before.get(id) !== now.get(id));
  if (ids.length !== 1) return ids.length ? 'The cart has changed' : '';
  const [id] = ids;
  const [was, is, { name }] = [before.get(id) ?? 0, now.get(id) ?? 0, products.get(id)];
  return is > was ? `${name} added` : is ? `${name}: ${is} left` : `${name} removed`;
}

// Updates the lines in place, so that the keyboard focus stays.
function put(items) {
  const lines = element('items');
  const now = items.map(({ product_id, quantity }) => {
    const line = lines.querySelector(`[data-product="${product_id}"]`) ?? newLine(product_id);
    const shows = line.querySelector('.quantity');
    if (shows.textContent !== String(quantity)) flash(line);
    shows.textContent = quantity;
    line.querySelector('.sum').textContent = euros.format((quantity * products.get(product_id).cents) / 100);
    return line;
  });
  const focused = document.activeElement;
  for (const line of [...lines.children]) if (!now.includes(line)) line.remove();
  now.forEach((line, at) => {
    if (lines.children[at] !== line) lines.insertBefore(line, lines.children[at] ?? null);
  });
  // If the focused button has left the page or will be hidden, the cart takes the focus.
  if (!focused.isConnected || (focused.id === 'empty' && !now.length)) element('cart').focus({ preventScroll: true });
}

function newLine(id) {
  const { name, hue } = products.get(id);
  const line = element('line').content.firstElementChild.cloneNode(true);
  line.dataset.product = id;
  line.style.setProperty('--hue', hue);
  line.querySelector('.name').textContent = name;
  const button = (kind, label, action) => {
    line.querySelector(kind).ariaLabel = label;
    line.querySelector(kind).addEventListener('click', action);
  };
  button('.less', `One less ${name}`, () => change('POST', `/cart/${id}/reduce`));
  button('.more', `One more ${name}`, () => add(id));
  button('.remove', `Remove ${name}`, () => change('DELETE', `/cart/${id}`));
  return line;
}

function flash(line) {
  line.classList.remove('new');
  void line.offsetWidth; // restarts the animation
  line.classList.add('new');
}

// ---- notices

function say(id, text) {
  if (element(id).textContent !== text) element(id).textContent = text;
}

let fading;

function announce(text) {
  if (!text) return;
  element('news').textContent = text;
  clearTimeout(fading);
  fading = setTimeout(() => (element('news').textContent = ''), 6_000);
}

// The bar shows while the cart is out of sight. Screen readers read the bar's text while the bar is hidden too.
let inSight = true;

function bar() {
  element('bar').classList.toggle('unseen', inSight || !shown?.size);
}
new IntersectionObserver(([{ isIntersecting }]) => {
  inSight = isIntersecting;
  bar();
}, { rootMargin: '0px 0px -80px' }).observe(element('cart'));
