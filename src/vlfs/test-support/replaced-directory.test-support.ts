/** For tests: a directory of the layers that an upper level had replaced, and that is shown again. */
import assert from 'node:assert/strict';
import type { StackSpec, VlfsSpec } from '../contract.ts';
import { removeAll } from './operations.test-support.ts';
import { Client, type Sandbox, stackOf } from './vlfs.test-support.ts';

export const LARGE = 'large '.repeat(50_000);

/** An appliance that deleted the directory e of a config level, and shows that of the layers again, to all of which no redirect leads; `newer`: its next stack. `keepsMoved`: the config level's directory moved shows that of the layers, too. */
export async function replacedInConfig(
  box: Sandbox,
  keepsMoved = false,
): Promise<{ spec: VlfsSpec; newer: StackSpec }> {
  const old = await box.unit('one', '1', { 'e/a': 'one', 'other/x': 'x' });
  const fresh = await box.unit('one', '2', {
    'e/a': 'ONE',
    'e/deep/b': 'B',
    'e/deep/er/large': LARGE,
    'e/deep/er/same': { hard: 'e/deep/b' },
    'e/link': { link: 'a' },
    'other/x': 'x',
    outside: { hard: 'e/a' },
  });
  const newer = await box.unit('one', '3', { 'e/a': 'newer', 'e/new': 'new', 'other/x': 'x' });
  const maker = box.spec('maker', [old]);
  let c = new Client(maker);
  c.rename('e', 'moved');
  c.mkdir('e');
  c.write('e/own', 'of the config level');
  c.close();
  const config = await box.config('t', maker);
  const spec = box.spec('a', [config, old]);
  c = new Client(spec);
  assert.deepEqual(c.readdir('e'), ['own']);
  for (const at of keepsMoved ? ['e'] : ['e', 'moved']) removeAll(c, at);
  c.close();
  return { spec: { ...spec, stack: stackOf([config, fresh]) }, newer: stackOf([config, newer]) };
}
