/** LDFs: the paper's figures, byte-for-byte round trips, minimal edits, and errors that name the line. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { StrataError } from '../../base/index.ts';
import { randomRuns } from '../../base/random-runs.test-support.ts';
import {
  createLdf,
  explicitLayers,
  formatLdf,
  holdInLdf,
  implicitLayers,
  ldfRefs,
  parseLdf,
  rewriteLdf,
} from './ldf.ts';

const FIGURE_2 = `main/mysql-server 5.0.51a-3

main/base 1
main/libdb4.2 4.2.52-18
=main/mailx 3a8.1.2-0.20040524cvs-4
`;

test('the paper, figure 2: explicit, implicit, held', () => {
  const ldf = parseLdf(FIGURE_2);
  assert.deepEqual(explicitLayers(ldf), [
    { repo: 'main', layer: 'mysql-server', version: '5.0.51a-3', held: false },
  ]);
  assert.deepEqual(implicitLayers(ldf).at(-1), {
    repo: 'main',
    layer: 'mailx',
    version: '3a8.1.2-0.20040524cvs-4',
    held: true,
  });
  assert.equal(formatLdf(ldf), FIGURE_2);
});

test('the paper, figure 3: a reference, with or without a repository', () => {
  assert.deepEqual(ldfRefs(parseLdf('@main/sql-server\n')), ['sql-server']);
  assert.deepEqual(ldfRefs(parseLdf('@web')), ['web']);
  assert.equal(formatLdf(createLdf({ refs: ['web'], explicit: [], implicit: [] })), '@web\n');
});

const word = fc.stringMatching(/^[a-z][a-z0-9.+-]{0,12}$/);
const version = fc.stringMatching(/^[0-9][0-9a-z.+~:-]{0,10}$/);
const space = fc.constantFrom('', ' ', '\t', '  ');
const gap = fc.constantFrom(' ', '\t', '    ');
const comment = fc.string({ maxLength: 20 }).map((s) => `#${s.replaceAll(/[\n\0]/g, '')}`);

const document = fc
  .record({
    head: fc.array(fc.oneof(comment, fc.constant(''))),
    refs: fc.uniqueArray(word, { maxLength: 3 }),
    layers: fc.uniqueArray(
      fc.record({
        layer: word,
        repo: word,
        version,
        held: fc.boolean(),
        space,
        gap,
        tail: fc.oneof(
          space,
          comment.map((c) => ` ${c}`),
        ),
        before: fc.array(comment, { maxLength: 2 }),
      }),
      { selector: (l) => l.layer, minLength: 1, maxLength: 12 },
    ),
    explicitCount: fc.nat(),
    newline: fc.constantFrom('\n', ''),
  })
  .map(({ head, refs, layers, explicitCount, newline }) => {
    const lines = layers.map((l) => [
      ...l.before,
      `${l.space}${l.held ? '=' : ''}${l.repo}/${l.layer}${l.gap}${l.version}${l.tail}`,
    ]);
    const count = refs.length > 0 ? explicitCount % (layers.length + 1) : 1 + (explicitCount % layers.length);
    const top = [...head, ...refs.map((r) => `@${r}`), ...lines.slice(0, count).flat()];
    const below = lines.slice(count).flat();
    const text = `${[...top, ...(below.length > 0 ? ['', ...below] : [])].join('\n')}${newline}`;
    return { text, explicit: layers.slice(0, count), implicit: layers.slice(count), refs };
  });

test('any LDF comes back byte for byte, and says what it says', () => {
  fc.assert(
    fc.property(document, ({ text, explicit, implicit, refs }) => {
      const ldf = parseLdf(text);
      assert.equal(formatLdf(ldf), text);
      assert.deepEqual(
        explicitLayers(ldf).map((l) => l.layer),
        explicit.map((l) => l.layer),
      );
      assert.deepEqual(
        implicitLayers(ldf).map((l) => l.version),
        implicit.map((l) => l.version),
      );
      assert.deepEqual(ldfRefs(ldf), refs);
      const same = rewriteLdf(ldf, { explicit: explicitLayers(ldf), implicit: implicitLayers(ldf) });
      assert.equal(formatLdf(same), text.endsWith('\n') ? text : `${text}\n`);
    }),
    randomRuns(100),
  );
});

test('an update touches only the fields that change', () => {
  const text =
    '# web servers\n  main/nginx   1.22  # ours\nmain/vim 9\n\n# below\nmain/libc 2\n=main/zlib\t1\n';
  const ldf = rewriteLdf(parseLdf(text), {
    explicit: [
      { repo: 'main', layer: 'nginx', version: '1.24', held: false },
      { repo: 'local', layer: 'page', version: '1', held: true },
    ],
    implicit: [
      { repo: 'main', layer: 'libc', version: '3', held: false },
      { repo: 'main', layer: 'zlib', version: '1', held: true },
      { repo: 'main', layer: 'pcre', version: '8', held: false },
    ],
  });
  assert.equal(
    formatLdf(ldf),
    '# web servers\n  main/nginx   1.24  # ours\n=local/page 1\n\n# below\nmain/libc 3\n=main/zlib\t1\nmain/pcre 8\n',
  );
  assert.equal(
    formatLdf(holdInLdf(parseLdf(text), 'nginx', true)!).split('\n')[1],
    '  =main/nginx   1.22  # ours',
  );
  assert.equal(holdInLdf(parseLdf(text), 'absent', true), null);
});

test('errors name the line and what is wrong there', () => {
  const cases: [string, RegExp][] = [
    ['main/a 1\nmain/b\n', /LDF, line 2: cannot read "main\/b"/],
    ['main/a 1\n\nother/a 2\n', /line 3: layer a is listed twice \(first in line 1\)/],
    ['@web\n@main/web\n', /line 2: refers to @web again/],
    ['main/a 1\n\n@web\n', /line 3: a reference stands among the implicit layers/],
    ['main/../etc 1\n', /line 1/],
    ['main/a 1 2\n', /line 1/],
    ['a\0b/c 1\n', /line 1: contains a NUL byte/],
    [`main/${'a'.repeat(5000)} 1\n`, /line 1: longer than/],
    ['=@web\n', /line 1/],
  ];
  for (const [text, message] of cases) {
    assert.throws(
      () => parseLdf(text),
      (error) => error instanceof StrataError && error.code === 'BAD_FORMAT' && message.test(error.message),
      text.slice(0, 40),
    );
  }
});

test('any bytes either parse or are refused with a StrataError', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[@=#a/ \n1.]{0,40}$/)), (text) => {
      try {
        assert.equal(formatLdf(parseLdf(text)), text);
      } catch (error) {
        if (!(error instanceof StrataError)) throw error;
      }
    }),
    randomRuns(100),
  );
});
