/** deb822 against dpkg-query over this host's status file, by round trips, and with hostile text. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { FormatError, LIMITS, type StrataError } from '../base/index.ts';
import { randomRuns } from '../base/random-runs.test-support.ts';
import { formatStanza, formatStanzas, parseStanzas, scanStanzas, stanzaField } from './deb822.ts';

test('comments, continuation lines, blank lines and odd spacing', () => {
  const text =
    '# head\n\nLayer: a\nDepends: x,\n# inside\n y,\n\tz  \nDescription:short \n long\n .\n  code\n \t\n\nLayer:b\r\nEmpty:\n\n\n';
  assert.deepEqual(
    parseStanzas(text).map((s) => [...s]),
    [
      [
        ['Layer', 'a'],
        ['Depends', 'x,\ny,\nz'],
        ['Description', 'short\nlong\n.\n code'],
      ],
      [
        ['Layer', 'b'],
        ['Empty', ''],
      ],
    ],
  );
  assert.deepEqual(parseStanzas(''), []);
  assert.equal(stanzaField(parseStanzas('pAcKage: x\n')[0]!, 'Package'), 'x');
});

test('this host’s status file: the same as dpkg-query, and exact round trip', () => {
  const bytes = readFileSync('/var/lib/dpkg/status');
  const stanzas = parseStanzas(bytes);
  const shown = execFileSync(
    'dpkg-query',
    ['-W', '-f', '\x24{Package} \x24{Version} \x24{Architecture} \x24{Depends}\\n'],
    {
      encoding: 'utf8',
      maxBuffer: 2 ** 26,
    },
  )
    .trimEnd()
    .split('\n')
    .sort();
  const read = stanzas
    .filter((s) => !s.get('Status')!.endsWith(' not-installed'))
    .map((s) => ['Package', 'Version', 'Architecture', 'Depends'].map((f) => s.get(f) ?? '').join(' '));
  assert.deepEqual(read.sort(), shown);
  assert.deepEqual(parseStanzas(formatStanzas(stanzas)), stanzas);
});

test('scanStanzas picks the same values as parseStanzas', () => {
  const bytes = readFileSync('/var/lib/dpkg/status');
  const fields = ['Package', 'description', 'Conffiles', 'Version', 'Maintainer'];
  const scanned: (string | undefined)[][] = [];
  scanStanzas(bytes, fields, (values, start, end) => {
    assert.ok(start < end && bytes.toString('latin1', start, start + 8) === 'Package:');
    scanned.push([...values]);
  });
  const parsed = parseStanzas(bytes).map((s) => fields.map((f) => stanzaField(s, f)));
  assert.deepEqual(scanned, parsed);
});

test('a whole archive’s list is scanned in a second or so', () => {
  const stanza = `Package: some-package-name\nVersion: 1.2.3-4\nDepends: ${'libsomething (>= 1.2), '.repeat(8)}x\nDescription: text\n${'Tag: a, b, c, d, e, f, g, h, i, j, k, l\n'.replace('Tag', 'T')}`;
  const fill = `Filler: ${'x'.repeat(400)}\n`;
  const bytes = Buffer.from(`${stanza}${fill}\n`.repeat(63_000));
  let count = 0;
  const before = process.cpuUsage();
  scanStanzas(bytes, ['Package', 'Version', 'Depends'], () => count++);
  const { user } = process.cpuUsage(before);
  assert.equal(count, 63_000);
  assert.ok(user < 10_000_000, `${user / 1000} ms of CPU for ${bytes.length} bytes`);
});

test('what is formatted is parsed to the same; no value can add a field', () => {
  const name = fc.stringMatching(/^[A-Za-z][A-Za-z0-9-]{0,10}$/);
  const line = fc.string({ unit: 'grapheme', maxLength: 20 }).map((s) => s.replace(/[\r\n]/g, '').trim());
  const value = fc
    .tuple(
      line,
      fc.array(
        line.filter((l) => l !== ''),
        { maxLength: 3 },
      ),
    )
    .map(([first, rest]) => [first, ...rest].join('\n'));
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.tuple(name, value), { selector: ([n]) => n.toLowerCase(), minLength: 1 }),
      (pairs) => {
        assert.deepEqual([...parseStanzas(formatStanza(pairs))[0]!], pairs);
      },
    ),
    randomRuns(100),
  );
  const hostile = parseStanzas(formatStanza([['A', 'x\n\nB: y\n# z\n']]));
  assert.deepEqual(
    hostile.map((s) => [...s.keys()]),
    [['A']],
  );
});

test('what is no deb822 is refused with its place', () => {
  for (const text of [
    'no colon\n',
    ': x\n',
    ' continuation\n',
    'A: 1\na: 2\n',
    'A: 1\n\n more\n',
    'Á: 1\n',
    'A b: 1\n',
  ])
    assert.throws(() => parseStanzas(text), FormatError, text);
  assert.throws(
    () => parseStanzas('A: 1\n\nB: 2\nwrong\n'),
    (e: FormatError) => e.offset === 11,
  );
  assert.throws(
    () => parseStanzas(Buffer.from(`A: ${'x'.repeat(LIMITS.stanzaBytes)}\n`)),
    (e: StrataError) => e.code === 'LIMIT',
  );
});
