// The hook and what it has announced, for tests to use from outside.
import { connect } from '/session/hook.js';

globalThis.hook = connect({ url: '/session' });
globalThis.told = [];
for (const type of ['change', 'stored', 'conflict', 'refused', 'closed', 'lost']) {
  hook.addEventListener(type, ({ detail }) => told.push([type, detail]));
}
hook.addEventListener('change', () => (document.body.dataset.connection = 'open'));
globalThis.values = () => Object.fromEntries(hook.values);
