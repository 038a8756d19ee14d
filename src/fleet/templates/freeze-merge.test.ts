/** A template freeze as users see it: an appliance looks the same over the config layer that its own changes were merged into. */
import assert from 'node:assert/strict';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import fc from 'fast-check';
import { randomRuns } from '../../base/random-runs.test-support.ts';
import type { LevelSpec, VlfsSpec } from '../../vlfs/contract.ts';
import { Client, makeSandbox } from '../../vlfs/test-support/vlfs.test-support.ts';
import { mergeLayerOver } from '../merge-layers/layer-merge.ts';
import { copyTree } from '../merge-layers/tree-copy.ts';

const box = makeSandbox();
after(() => box.remove());
let count = 0;
const base: LevelSpec = await box.unit('a', '1', {
  'a/b/y': '2',
  'a/b/z': '3',
  'a/x': '1',
  'c/z': '4',
});

type Change = (client: Client) => void;

/** Runs changes on an appliance; gives what it shows after opening it anew. */
function change(spec: VlfsSpec, work: Change): Record<string, string> {
  const client = new Client(spec);
  work(client);
  client.close();
  const again = new Client(spec);
  try {
    return again.tree();
  } finally {
    again.close();
  }
}

async function freezes(asTemplate: Change, asAppliance: Change): Promise<void> {
  const id = `${count++}`;
  const template = box.spec(`t${id}`, [base]);
  change(template, asTemplate);
  const config = await box.config('web', template);
  const appliance = box.spec(`one${id}`, [config, base]);
  const expected = change(appliance, asAppliance);
  const frozen = {
    ...template,
    privateDir: join(box.dir, `tree${id}`),
    whiteoutsDir: join(box.dir, `sets${id}`),
  };
  await copyTree(template.privateDir, frozen.privateDir, { how: 'copy' });
  await copyTree(template.whiteoutsDir, frozen.whiteoutsDir, { how: 'copy' });
  await mergeLayerOver(
    { tree: appliance.privateDir, whiteouts: appliance.whiteoutsDir },
    { tree: frozen.privateDir, whiteouts: frozen.whiteoutsDir },
    'web',
    'copy',
  );
  const after = box.spec(`two${id}`, [await box.config('web', frozen), base]);
  assert.deepEqual(
    change(after, () => {}),
    expected,
  );
}

const removeAll = (c: Client, path: string): void => {
  for (const name of c.readdir(path)) {
    if (name === '.' || name === '..') continue;
    if ((c.stat(`${path}/${name}`).mode & 0o170000) === 0o040000) removeAll(c, `${path}/${name}`);
    else c.unlink(`${path}/${name}`);
  }
  c.rmdir(path);
};

test('a part of a directory is renamed away, then the rest is deleted', async () => {
  await freezes(
    (c) => c.write('a/b/config', 'kept'),
    (c) => {
      c.rename('a/b', 'moved');
      c.unlink('moved/y');
      removeAll(c, 'a');
    },
  );
  await freezes(
    (c) => {
      c.write('a/b/config', 'gone');
      c.write('a/b/other', 'kept');
    },
    (c) => {
      c.rename('a/b', 'moved');
      c.unlink('moved/config');
      removeAll(c, 'a');
      c.mkdir('a');
      c.write('a/new', 'new');
    },
  );
});

test('the template has renamed before', async () => {
  await freezes(
    (c) => {
      c.rename('a/b', 'moved');
      c.unlink('moved/y');
      removeAll(c, 'a');
    },
    (c) => {
      c.unlink('moved/z');
      c.mkdir('a');
      c.write('a/x', 'again');
    },
  );
});

test('a directory that the template deleted and made anew is deleted', async () => {
  await freezes(
    (c) => {
      removeAll(c, 'a');
      c.mkdir('a');
      c.write('a/only', 'one');
    },
    (c) => removeAll(c, 'a'),
  );
});

test('random changes look the same after a freeze', { timeout: 300_000 }, async () => {
  const path = fc.constantFrom(
    'a',
    'a/b',
    'a/x',
    'a/b/y',
    'a/b/z',
    'c',
    'c/z',
    'n',
    'n/f',
    'p',
    'a/p',
    'c/q',
    'p/y',
  );
  const operation: fc.Arbitrary<Change> = fc.oneof(
    path.map((p) => (c: Client) => c.write(p, 'w')),
    path.map((p) => (c: Client) => c.unlink(p)),
    path.map((p) => (c: Client) => removeAll(c, p)),
    path.map((p) => (c: Client) => c.mkdir(p)),
    fc.tuple(path, path).map(
      ([p, q]) =>
        (c: Client) =>
          c.rename(p, q),
    ),
  );
  const changes = fc.array(operation, { minLength: 1, maxLength: 7 }).map(
    (list): Change =>
      (c) => {
        for (const one of list) {
          try {
            one(c);
          } catch {
            // Not every operation is possible.
          }
        }
      },
  );
  await fc.assert(
    fc.asyncProperty(changes, changes, (config, appliance) => freezes(config, appliance)),
    randomRuns(150),
  );
});

test('large files of which only attributes or blocks were changed are whole in the config layer', async () => {
  const content = 'of the layer '.repeat(30_000);
  const level = await box.unit('large', '1', { 'd/attributes': content, 'd/blocks': content });
  const appliance = box.spec('large', [level]);
  const expected = change(appliance, (c) => {
    c.chmod('d/attributes', 0o600);
    c.link('d/attributes', 'd/linked');
    const handle = c.open('d/blocks', 2);
    c.writeHandle(handle, 'of the appliance', 200_000);
    c.release(handle);
  });
  const frozen = {
    ...appliance,
    privateDir: join(box.dir, 'large-tree'),
    whiteoutsDir: join(box.dir, 'large-sets'),
  };
  for (const dir of [frozen.privateDir, frozen.whiteoutsDir]) mkdirSync(dir);
  await mergeLayerOver(
    { tree: appliance.privateDir, whiteouts: appliance.whiteoutsDir },
    { tree: frozen.privateDir, whiteouts: frozen.whiteoutsDir },
    'web',
    'link',
  );
  rmSync(level.treeDir, { recursive: true });
  const after = box.spec('large-after', [await box.config('web', frozen)]);
  assert.deepEqual(
    change(after, () => {}),
    expected,
  );
});
