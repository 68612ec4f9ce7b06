// The cart as the server tells it, in this tab and in every other one. Buttons write by plain requests; what comes of
// them arrives over the events, as what another tab does.
import { connect } from '/session/hook.js';

const element = (id) => document.getElementById(id);
const session = connect({ url: '/session' });
const euros = new Intl.NumberFormat('en-IE', { style: 'currency', currency: 'EUR' });
const products = new Map();

for (const card of document.querySelectorAll('.product')) {
  const { product, name, cents, hue } = card.dataset;
  products.set(Number(product), { name, cents: Number(cents), hue });
  card.style.setProperty('--hue', hue);
  card.querySelector('.add').addEventListener('click', () => change('POST', { product_id: Number(product) }));
}
element('empty').addEventListener('click', () => change('DELETE'));

session.addEventListener('change', ({ detail }) => {
  connection('open', 'Live');
  if (detail.names.includes('cart') || !session.values.has('cart')) show(session.values.get('cart')?.items ?? []);
});
session.addEventListener('lost', () => connection('closed', 'Reconnecting'));
session.addEventListener('closed', ({ detail: { reason } }) => {
  if (reason === 'expired') notice('This cart was not touched for too long, and is gone.');
});

async function change(method, body) {
  const headers = body && { 'content-type': 'application/json' };
  const answer = await fetch('/cart', { method, headers, body: body && JSON.stringify(body) }).catch(() => null);
  notice(answer?.ok ? '' : await reason(answer));
  if (answer?.ok) session.resume(); // the first one began the session that the events are of
}

const reason = async (answer) => (answer ? `That did not work: ${await answer.text()}` : 'The shop is out of reach.');

function show(items) {
  const lines = element('items');
  const before = new Map([...lines.children].map((line) => [line.dataset.product, line]));
  const now = items.map((item) => {
    const line = before.get(String(item.product_id)) ?? newLine(item.product_id);
    const { cents } = products.get(item.product_id);
    const quantity = line.querySelector('.quantity');
    if (quantity.textContent !== String(item.quantity)) flash(line);
    quantity.textContent = item.quantity;
    line.querySelector('.sum').textContent = euros.format((item.quantity * cents) / 100);
    return line;
  });
  lines.replaceChildren(...now);
  const count = items.reduce((sum, { quantity }) => sum + quantity, 0);
  const total = items.reduce((sum, { product_id, quantity }) => sum + quantity * products.get(product_id).cents, 0);
  element('count').textContent = count;
  element('nothing').hidden = count > 0;
  for (const id of ['total', 'empty', 'forget']) element(id).hidden = count === 0;
  element('total').querySelector('b').textContent = euros.format(total / 100);
}

function newLine(id) {
  const { name, hue } = products.get(id);
  const line = document.createElement('li');
  line.dataset.product = id;
  line.style.setProperty('--hue', hue);
  for (const [kind, text] of [['quantity', ''], ['name', name], ['sum', '']]) {
    const part = document.createElement('span');
    part.className = kind;
    part.textContent = text;
    line.append(part);
  }
  return line;
}

function flash(line) {
  line.classList.remove('new');
  void line.offsetWidth; // begins the animation anew
  line.classList.add('new');
}

function connection(state, text) {
  document.body.dataset.connection = state;
  element('connection').textContent = text;
}

function notice(text) {
  element('notice').textContent = text;
}
