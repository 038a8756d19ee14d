/** dpkg's status as text: what dpkg itself reads back, and the three-way merge for appliances with a status of their own. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { randomRuns } from '../../base/random-runs.test-support.ts';
import { formatStatus, mergePrivateStatus, parseStatus } from './index.ts';

const FIELDS = ['Package', 'Architecture', 'Version', 'Status', 'Depends', 'Conffiles', 'Description']
  .map((name) => `\${${name}}`)
  .join(' ')
  .concat('\n');
const INSTALLED = 'install ok installed';

function status(packages: Record<string, string>): string {
  return formatStatus(
    Object.entries(packages).map(([name, state]) => {
      const [version, status = INSTALLED] = state.split('|');
      return new Map([
        ['Package', name],
        ['Status', status],
        ['Architecture', 'amd64'],
        ['Version', version!],
      ]);
    }),
  );
}

function versions(text: string): Record<string, string> {
  const found: Record<string, string> = {};
  for (const stanza of parseStatus(text).values()) {
    const state = stanza.get('Status') === INSTALLED ? '' : `|${stanza.get('Status')}`;
    found[stanza.get('Package')!] = `${stanza.get('Version')}${state}`;
  }
  return found;
}

const merge = (old: Record<string, string>, next: Record<string, string>, mine: Record<string, string>) =>
  versions(mergePrivateStatus(status(old), status(next), status(mine)));

test('what the appliance installed stays, and the template’s new versions come', () => {
  assert.deepEqual(
    merge({ nginx: '1', libc: '2' }, { nginx: '1.1', libc: '2' }, { nginx: '1', libc: '2', foo: '9' }),
    {
      nginx: '1.1',
      libc: '2',
      foo: '9',
    },
  );
});

test('what the template adds and removes comes and goes', () => {
  assert.deepEqual(merge({ a: '1', b: '1' }, { a: '1', c: '1' }, { a: '1', b: '1', own: '1' }), {
    a: '1',
    c: '1',
    own: '1',
  });
});

test('a package that the appliance upgraded or removed itself', () => {
  const removed = 'deinstall ok config-files';
  assert.deepEqual(
    merge({ a: '1' }, { a: '2' }, { a: '5' }),
    { a: '5' },
    'its own version is in its private layer',
  );
  assert.deepEqual(merge({ a: '1' }, { a: '1' }, { a: `1|${removed}` }), { a: `1|${removed}` });
  assert.deepEqual(merge({ a: '1' }, { a: '2' }, { a: `1|${removed}` }), { a: '2' }, 'a new version is back');
  assert.deepEqual(merge({ a: '1' }, { a: '1' }, {}), {});
  assert.deepEqual(merge({ a: '1' }, { a: '2' }, {}), { a: '2' });
  assert.deepEqual(merge({ a: '1' }, {}, { a: `1|${removed}` }), {}, 'its files are gone');
  assert.deepEqual(merge({}, { foo: '2' }, { foo: '1' }), { foo: '1' }, 'it had it before the template');
});

test('properties of the merge', () => {
  const packages = fc.dictionary(fc.constantFrom('a', 'b', 'c', 'd'), fc.constantFrom('1', '2', '3'));
  fc.assert(
    fc.property(packages, packages, packages, (old, next, mine) => {
      assert.equal(
        mergePrivateStatus(status(old), status(next), status(old)),
        status(next),
        'no change of its own',
      );
      assert.equal(
        mergePrivateStatus(status(old), status(old), status(mine)),
        status(mine),
        'no change of the template',
      );
      assert.equal(mergePrivateStatus(status(old), status(next), status(next)), status(next));
    }),
    randomRuns(200),
  );
});

test('the host’s own status survives parsing and writing, for dpkg too', () => {
  const text = readFileSync('/var/lib/dpkg/status', 'utf8');
  const written = formatStatus(parseStatus(text).values());
  const dir = mkdtempSync('/tmp/strata-status-test-');
  try {
    writeFileSync(`${dir}/status`, written);
    const show = (admindir: string) =>
      execFileSync('dpkg-query', [`--admindir=${admindir}`, '-W', '-f', FIELDS], {
        maxBuffer: 64 << 20,
      }).toString();
    const lines = (text: string) => text.replace(/ +$/gm, '').split('\n');
    const ours = lines(show(dir));
    const theirs = lines(show('/var/lib/dpkg'));
    assert.deepEqual(ours.filter((line, i) => line !== theirs[i]).slice(0, 3), []);
    assert.equal(ours.length, theirs.length);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
