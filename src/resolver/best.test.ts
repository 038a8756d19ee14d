/**
 * The resolver against brute force on small random universes: it answers exactly when there is an answer, the answer is
 * consistent, each countable criterion costs as little as possible, nothing added could be left out, and the order of
 * the records makes no difference. The reference here shares no code with the resolver but the order of versions.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { parseRelations, type Relation, satisfies } from '../formats/index.ts';
import { buildUniverse, type OfferedUnit, type ResolveRequest } from './index.ts';
import { type UnitFields, unit } from './test-support.ts';

const LAYERS = ['a', 'b', 'c', 'd'];
const relation = fc
  .tuple(fc.constantFrom(...LAYERS, 'v'), fc.constantFrom('', '', ' (>= 2)', ' (<< 2)', ' (= 1)', ' (>= 3)'))
  .map(([name, version]) => name + version);
const alternatives = fc.array(relation, { minLength: 1, maxLength: 2 }).map((list) => list.join(' | '));
const someUnit = fc.record({
  layer: fc.constantFrom(...LAYERS),
  version: fc.constantFrom('1', '2', '3'),
  repo: fc.constantFrom('main', 'main', 'main', 'local'),
  depends: fc.option(
    fc.array(alternatives, { maxLength: 2 }).map((list) => list.join(', ')),
    { nil: undefined },
  ),
  conflicts: fc.option(relation, { nil: undefined, freq: 2 }),
  breaks: fc.option(relation, { nil: undefined, freq: 1 }),
  provides: fc.option(fc.constantFrom('v', 'v (= 1)', 'v (= 2), d'), { nil: undefined, freq: 1 }),
  essential: fc.boolean(),
});
const universe = fc.array(someUnit, { minLength: 1, maxLength: 11 }).map((records) => {
  const distinct = new Map<string, OfferedUnit>();
  records.forEach(({ layer, version, repo, essential, ...fields }, i) => {
    const given: UnitFields = Object.fromEntries(
      Object.entries(fields).filter(([, value]) => value !== undefined),
    );
    if (essential && i % 5 === 0) given.essential = true;
    distinct.set(`${repo}/${layer} ${version}`, unit(`${repo}/${layer} ${version}`, given));
  });
  return [...distinct.values()];
});
const scenario = universe.chain((units) =>
  fc.record({
    units: fc.constant(units),
    wishes: fc.uniqueArray(fc.constantFrom(...new Set(units.map((u) => u.layer))), {
      minLength: 1,
      maxLength: 2,
    }),
    installed: fc.subarray(units),
    held: fc.boolean(),
    upgrade: fc.constantFrom('none' as const, 'all' as const),
    seed: fc.nat(),
  }),
);

/** Bits of a set are places in `units`. */
interface Reference {
  units: OfferedUnit[];
  request: ResolveRequest;
  allowed: number[][];
  installed: Map<string, number>;
  valid: number[];
}

function matches(u: OfferedUnit, r: Relation): boolean {
  if (u.layer === r.name && (r.op === undefined || satisfies(u.version, r.op, r.version!))) return true;
  return parseRelations(u.provides ?? '')
    .flat()
    .some(
      (p) =>
        p.name === r.name &&
        (r.op === undefined || (p.version !== undefined && satisfies(p.version, r.op, r.version!))),
    );
}

function reference(units: OfferedUnit[], request: ResolveRequest): Reference {
  const all = units.map((_, i) => i);
  const installed = new Map<string, number>();
  const allowed: number[][] = [];
  for (const wish of request.wishes) allowed.push(all.filter((i) => units[i]!.layer === wish.layer));
  for (const old of request.installed ?? []) {
    const place = units.findIndex(
      (u) => u.layer === old.layer && u.repo === old.repo && u.version === old.version,
    );
    installed.set(old.layer, place);
    if (old.held) allowed.push([place]);
  }
  const mask = (list: number[]): number => list.reduce((bits, i) => bits | (1 << i), 0);
  const who = (r: Relation): number => mask(all.filter((i) => matches(units[i]!, r)));
  const needs = units.map((u, i) =>
    parseRelations(u.depends ?? '')
      .map((group) => group.reduce((bits, r) => bits | who(r), 0))
      .filter((bits) => !(bits & (1 << i))),
  );
  const excluded = units.map((u, i) => {
    const same = mask(all.filter((j) => units[j]!.layer === u.layer));
    const declared = [u.conflicts, u.breaks]
      .flatMap((text) => parseRelations(text ?? '').flat())
      .reduce((bits, r) => bits | who(r), 0);
    return (declared | same) & ~(1 << i);
  });
  const base = units.map((u) => {
    const layers = [...new Set(units.filter((x) => x.repo === u.repo).map((x) => x.layer))];
    const essential = layers.filter((layer) => {
      const own = units.filter((x) => x.repo === u.repo && x.layer === layer);
      return own.sort((x, y) => Number(y.version) - Number(x.version))[0]!.essential === true;
    });
    return essential.map((layer) => mask(all.filter((i) => units[i]!.layer === layer)));
  });
  const valid: number[] = [];
  for (let set = 0; set < 1 << units.length; set++) {
    const inSet = all.filter((i) => set & (1 << i));
    if (
      allowed.every((list) => set & mask(list)) &&
      inSet.every(
        (i) =>
          !(set & excluded[i]!) &&
          needs[i]!.every((bits) => set & bits) &&
          base[i]!.every((bits) => set & bits),
      )
    )
      valid.push(set);
  }
  return { units, request, allowed, installed, valid };
}

/** Installed units that the targets reach over relations between installed units. */
function keptBy({ units, allowed, installed }: Reference): Set<number> {
  const present = [...installed.values()];
  const kept = new Set(present.filter((i) => allowed.some((list) => list.includes(i))));
  for (let size = -1; size !== kept.size; ) {
    size = kept.size;
    for (const i of [...kept]) {
      const owner = units[i]!;
      const relations = parseRelations(owner.depends ?? '').flat();
      for (const j of present) {
        const essentialHere = units
          .filter((u) => u.repo === owner.repo && u.layer === units[j]!.layer)
          .sort((x, y) => Number(y.version) - Number(x.version))[0]?.essential;
        if (essentialHere || relations.some((r) => matches(units[j]!, r))) kept.add(j);
      }
    }
  }
  return kept;
}

function costs(ref: Reference, kept: Set<number>, set: number): number[] {
  const { units, request, allowed, installed } = ref;
  const inSet = units.map((_, i) => i).filter((i) => set & (1 << i));
  const version = (i: number): number => Number(units[i]!.version);
  let [downgrades, changes, newestExplicit, newestOther] = [0, 0, 0, 0];
  const target = new Map<string, number[]>();
  for (const list of [...allowed].reverse()) {
    const layer = units[list[0]!]!.layer;
    if (!target.has(layer)) target.set(layer, list);
  }
  for (const i of inSet) {
    const layer = units[i]!.layer;
    const old = installed.get(layer);
    if (old !== undefined && version(i) < version(old)) downgrades++;
    if (old === i && request.upgrade === 'none') continue;
    const list = target.get(layer) ?? units.map((_, j) => j).filter((j) => units[j]!.layer === layer);
    const isNewest = list.every((j) => version(j) <= version(i));
    if (!isNewest && target.has(layer)) newestExplicit++;
    else if (!isNewest) newestOther++;
  }
  if (request.upgrade === 'none') for (const i of kept) if (!(set & (1 << i))) changes++;
  return [downgrades, changes, newestExplicit, newestOther];
}

function least(list: number[][]): number[] {
  const compare = (x: number[], y: number[]): number => {
    const i = x.findIndex((value, j) => value !== y[j]);
    return i < 0 ? 0 : x[i]! - y[i]!;
  };
  return [...list].sort(compare)[0]!;
}

function shuffled<T>(list: readonly T[], seed: number): T[] {
  const out = [...list];
  let state = seed | 1;
  for (let i = out.length - 1; i > 0; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const j = state % (i + 1);
    [out[i], out[j]] = [out[j]!, out[i]!];
  }
  return out;
}

test('the answer is the best that brute force finds', () => {
  let satisfied = 0;
  let refused = 0;
  fc.assert(
    fc.property(scenario, ({ units, wishes, installed, held, upgrade, seed }) => {
      const perLayer = new Map(installed.map((u) => [u.layer, u]));
      const request: ResolveRequest = {
        wishes: wishes.map((layer) => ({ layer })),
        installed: [...perLayer.values()].map((u, i) => ({
          repo: u.repo,
          layer: u.layer,
          version: u.version,
          held: held && i === 0,
        })),
        upgrade,
      };
      const ref = reference(units, request);
      const result = buildUniverse(units).resolve(request);
      assert.equal(result.ok, ref.valid.length > 0);
      const again = buildUniverse(shuffled(units, seed)).resolve(request);
      assert.deepEqual({ ...again, elapsedMs: 0 }, { ...result, elapsedMs: 0 });
      if (!result.ok) {
        refused++;
        assert.match(result.explanation.summary, /^cannot (add|keep) /);
        assert.ok(result.explanation.chain.length > 0);
        return;
      }
      satisfied++;
      const set = result.units.reduce((bits, s) => bits | (1 << units.indexOf(s.unit)), 0);
      assert.ok(ref.valid.includes(set), 'the answer is consistent');
      const kept = keptBy(ref);
      const best = least(ref.valid.map((other) => costs(ref, kept, other)));
      const around = ref.valid
        .filter((other) => (other & set) === set)
        .map((other) => costs(ref, kept, other));
      assert.deepEqual(least(around), best);
      const old = units.reduce((bits, u, i) => (ref.installed.has(u.layer) ? bits | (1 << i) : bits), 0);
      const smaller = ref.valid.find(
        (other) => other !== set && (other & set) === other && !(set & ~other & old),
      );
      assert.equal(smaller, undefined, 'nothing that was added can be left out');
    }),
    { numRuns: 8000, seed: 7 },
  );
  assert.ok(satisfied > 1000 && refused > 1000, `${satisfied} satisfied, ${refused} refused`);
});
