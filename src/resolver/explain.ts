/**
 * Makes of a minimal set of facts what a person reads: one sentence, the chain, and what to do. The sentence names the
 * nearest cause: something that nobody offers, two units that exclude each other, or two versions of one layer.
 */
import type { Explanation } from './contract.ts';
import { type Fact, findCore } from './explain-core.ts';
import {
  chainLines,
  chainTo,
  exclusionDetail,
  layerLabel,
  newestOffered,
  type Origins,
  originsOf,
  rootOf,
} from './explain-lines.ts';
import type { Target, Targets } from './targets.ts';
import type { UnitIndex } from './unit-index.ts';
import type { UnitRelations } from './unit-relations.ts';

type FactOf<K extends Fact['kind']> = Extract<Fact, { kind: K }>;
type Missing = FactOf<'need'> | FactOf<'essential'>;

interface Sentence {
  blamed: Target;
  text: string;
  hint: string;
}

interface Case {
  index: UnitIndex;
  core: readonly Fact[];
  origins: Origins;
  /** The target to blame: the last new one among those that cannot be together. */
  blamed: Target;
}

/** Lines of a chain that are shown. */
const CHAIN_LINES = 30;

export function explainUnsatisfiable(index: UnitIndex, relations: UnitRelations, read: Targets): Explanation {
  const core = findCore(index, relations, read);
  const targets =
    core.length > 0 ? core.flatMap((f) => (f.kind === 'target' ? [f.target] : [])) : read.targets;
  const blamed =
    targets.findLast((t) => !t.installed) ?? targets.findLast((t) => t.kind === 'wish') ?? targets.at(-1)!;
  const known: Case = { index, core, origins: originsOf(core), blamed };
  const sentence =
    explainMissing(known) ??
    explainExclusion(known) ??
    explainVersions(known) ??
    explainOtherwise(known, targets);
  const chain = chainLines(
    index,
    core.filter((fact) => isTelling(fact, targets)),
  );
  const shown = chain.slice(0, CHAIN_LINES);
  if (chain.length > shown.length) shown.push(`and ${chain.length - shown.length} more facts`);
  return { summary: `${opening(sentence.blamed)}: ${sentence.text}`, chain: shown, hint: sentence.hint };
}

/** What is asked for is known to who asks, unless several wishes meet. */
function isTelling(fact: Fact, targets: readonly Target[]): boolean {
  return fact.kind !== 'target' || fact.target.kind === 'hold' || targets.length > 1;
}

function opening(target: Target): string {
  return `cannot ${target.installed ? 'keep' : 'add'} ${target.label}`;
}

/** A need that no unit satisfies. */
function explainMissing({ index, core, origins, blamed }: Case): Sentence | null {
  const isMissing = (fact: Fact): fact is Missing =>
    (fact.kind === 'need' || fact.kind === 'essential') && fact.need.candidates.length === 0;
  const fact = core.find(isMissing);
  if (!fact) return null;
  const root = fact.kind === 'need' ? (rootOf(origins, fact.unit) ?? blamed) : blamed;
  if (fact.kind === 'essential') {
    const text = `no repository offers ${fact.need.name}, which is essential in ${fact.repo}`;
    return { blamed: root, text, hint: `run \`strata repo sync ${fact.repo}\`` };
  }
  const unit = index.units[fact.unit]!;
  const owner = `${unit.layer} ${unit.version}`;
  if (fact.need.name === '') {
    const text = `the relations of ${owner} are malformed: ${fact.need.text.replace(/ \(malformed\)$/, '')}`;
    return { blamed: root, text, hint: `correct the metadata of ${unit.repo}/${unit.layer}` };
  }
  const newest = newestOffered(index, fact.need.name);
  const only = newest === null ? '' : `; newest offered is ${newest}`;
  return {
    blamed: root,
    text: `no repository offers ${fact.need.text}, which ${owner} depends on${only}`,
    hint: `add a repository that offers ${fact.need.name}, or run \`strata repo sync\``,
  };
}

/** Two units that exclude each other. */
function explainExclusion({ index, core, origins, blamed }: Case): Sentence | null {
  const fact = core.find((f) => f.kind === 'exclusion');
  if (!fact) return null;
  const ownRoot = rootOf(origins, fact.unit) ?? blamed;
  const otherRoot = rootOf(origins, fact.other) ?? blamed;
  if (fact.unit === fact.other) {
    const text = `the relations of ${layerLabel(index, fact.unit)} are malformed: ${fact.exclusion.text.replace(/ \(malformed\)$/, '')}`;
    return { blamed: ownRoot, text, hint: `correct the metadata of ${layerLabel(index, fact.unit)}` };
  }
  const swapped = otherRoot === blamed && ownRoot !== blamed;
  const [near, far] = swapped ? [fact.other, fact.unit] : [fact.unit, fact.other];
  const [nearRoot, farRoot] = swapped ? [otherRoot, ownRoot] : [ownRoot, otherRoot];
  const [nearLabel, farLabel] = [layerLabel(index, near), layerLabel(index, far)];
  const detail = exclusionDetail(index, fact);
  const nearIsAsked = chainTo(origins, near).length === 0;
  const farIsAsked = chainTo(origins, far).length === 0;
  if (nearRoot === farRoot) {
    const text = nearIsAsked
      ? `it needs ${farLabel}, with which it conflicts${detail}`
      : `it needs both ${nearLabel} and ${farLabel}, which conflict${detail}`;
    return { blamed: nearRoot, text, hint: `another version of ${nearRoot.layer} may help` };
  }
  const farNeeded = farIsAsked ? '' : `, which ${farRoot.label} needs`;
  const verb = fact.exclusion.kind === 'breaks' && !swapped ? 'breaks' : 'conflicts with';
  const text = nearIsAsked
    ? `it ${verb} ${farLabel}${farNeeded}${detail}`
    : `it needs ${nearLabel}, which ${verb} ${farLabel}${farNeeded}${detail}`;
  return { blamed: nearRoot, text, hint: adviseApart(nearRoot, farRoot) };
}

/** Two needs that want different units of one layer. */
function explainVersions({ index, core, origins, blamed }: Case): Sentence | null {
  const fact = core.find((f) => f.kind === 'versions');
  if (!fact) return null;
  const concerned = core.filter(
    (f): f is FactOf<'need'> | FactOf<'target'> =>
      (f.kind === 'need' || f.kind === 'target') &&
      candidatesOf(f).some((id) => index.units[id]!.layer === fact.layer),
  );
  const rootOfFact = (f: FactOf<'need'> | FactOf<'target'>): Target =>
    f.kind === 'target' ? f.target : (rootOf(origins, f.unit) ?? blamed);
  const own = concerned.find((f) => rootOfFact(f) === blamed) ?? concerned[0];
  const other =
    concerned.find((f) => f !== own && rootOfFact(f) !== blamed) ?? concerned.find((f) => f !== own);
  if (!own || !other) return null;
  const phrase = (f: FactOf<'need'> | FactOf<'target'>, isOwn: boolean): string => {
    if (f.kind === 'target') return targetPhrase(f.target, isOwn);
    const asked = chainTo(origins, f.unit).length === 0;
    const who = isOwn && asked ? 'it' : layerLabel(index, f.unit);
    const reason = isOwn && !asked ? ', which it needs,' : '';
    return `${who}${reason} depends on ${f.need.text}`;
  };
  return {
    blamed: rootOfFact(own),
    text: `${phrase(own, true)}, but ${phrase(other, false)}`,
    hint: adviseApart(rootOfFact(own), rootOfFact(other)),
  };
}

function candidatesOf(fact: FactOf<'need'> | FactOf<'target'>): readonly number[] {
  return fact.kind === 'target' ? fact.target.candidates : fact.need.candidates;
}

function targetPhrase(target: Target, isOwn: boolean): string {
  if (target.kind === 'hold') return `${target.label} is held`;
  return isOwn ? 'it is asked for' : `${target.label} is asked for`;
}

function adviseApart(a: Target, b: Target): string {
  const held = [b, a].find((t) => t.kind === 'hold');
  if (held) return `unhold ${held.layer}`;
  if (a === b) return `another version of ${a.layer} may help`;
  return 'remove one of them';
}

function explainOtherwise({ core }: Case, targets: readonly Target[]): Sentence {
  const blamed = targets.findLast((t) => !t.installed) ?? targets.at(-1)!;
  const others = targets.filter((t) => t !== blamed).map((t) => t.label);
  const together =
    others.length === 0
      ? 'its needs exclude each other'
      : `it cannot be with ${others.slice(0, 5).join(', ')}`;
  return { blamed, text: together, hint: core.length > 0 ? 'see the chain' : 'ask for fewer layers at once' };
}
