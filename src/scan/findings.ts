/** What a run found: infected contents with the layers that hold them, problems, counts; bounded, whatever the fleet holds. */
import { type Digest, nameToText } from '../base/index.ts';
import type { VlfsSpec } from '../vlfs/contract.ts';
import { type LevelFile, whereShown } from '../vlfs/index.ts';
import type { InfectedContent, ScanFinding, ScanJob, ScanPlace, ScanProblem } from './contract.ts';

/** Contents in a result, places of each, and problems of each kind; counts are of all. */
const MOST_FINDINGS = 1000;
const MOST_PLACES = 1000;
const MOST_HOLDERS = 10_000;
const MOST_ROWS = 50_000;
/** Contents that one run can put into quarantine. */
const MOST_INFECTED = 100_000;
const MOST_PROBLEMS = 100;

/** A layer as the run sees it. */
export interface Holder {
  /** As results name it. */
  layer: string;
  /** For problems. */
  label: string;
  /** The level's id in stacks, or null: private. */
  level: string | null;
  /** Stacks with the level, or the appliance whose private layer it is. */
  stacks: number[];
  appliance: number;
}

interface Held {
  name: string;
  verdict: ScanFinding['verdict'];
  bytes: number;
  quarantined: boolean;
  /** latin1 paths. */
  places: { holder: Holder; path: string }[];
  more: number;
}

export interface Findings {
  infected(digest: Digest, of: Omit<Held, 'places' | 'more'>, holder: Holder, path: string): void;
  problem(kind: 'failed' | 'skipped', holder: Holder, path: string, reason: string): void;
  readonly counts: { infected: number; failed: number; skipped: number };
  readonly failed: ScanProblem[];
  readonly skipped: ScanProblem[];
  /** Infected contents that are not in quarantine, also those beyond the report. */
  fresh(): InfectedContent[];
  /** Every finding with every place, and who shows it. */
  report(job: ScanJob): ScanFinding[];
}

export function createFindings(): Findings {
  const found = new Map<Digest, Held>();
  const counts = { infected: 0, failed: 0, skipped: 0 };
  const problems = { failed: [] as ScanProblem[], skipped: [] as ScanProblem[] };
  const fresh = new Map<Digest, InfectedContent>();
  let places = 0;
  return {
    counts,
    failed: problems.failed,
    skipped: problems.skipped,
    infected(digest, of, holder, path) {
      let held = found.get(digest);
      if (held === undefined) {
        const isKnown = fresh.has(digest);
        if (!isKnown) counts.infected++;
        if (!isKnown && of.verdict === 'infected' && !of.quarantined && fresh.size < MOST_INFECTED)
          fresh.set(digest, { digest, name: of.name, bytes: of.bytes });
        if (found.size >= MOST_FINDINGS) return;
        held = { ...of, places: [], more: 0 };
        found.set(digest, held);
      }
      if (places >= MOST_HOLDERS || held.places.length >= MOST_PLACES) {
        held.more += holder.level === null ? 1 : Math.max(1, holder.stacks.length);
        return;
      }
      places++;
      held.places.push({ holder, path });
    },
    problem(kind, holder, path, reason) {
      counts[kind]++;
      if (problems[kind].length < MOST_PROBLEMS)
        problems[kind].push({ holder: holder.label, path: `/${nameToText(path)}`, reason });
    },
    fresh: () => [...fresh.values()],
    report(job) {
      let rows = 0;
      const shown = shownPlaces(job, [...found.values()]);
      return [...found].map(([digest, { name, verdict, bytes, quarantined, places: held, more }]) => {
        const all: ScanPlace[] = [];
        let count = more;
        for (const { holder, path } of held) {
          for (const place of placesOf(job, holder, path, shown)) {
            count++;
            if (all.length >= MOST_PLACES || rows >= MOST_ROWS) continue;
            all.push(place);
            rows++;
          }
        }
        all.sort((a, b) => (a.appliance < b.appliance ? -1 : a.appliance > b.appliance ? 1 : 0));
        return { digest, name, verdict, bytes, quarantined, places: all, place_count: count };
      });
    },
  };
}

/** By appliance: `LEVEL NUL PATH` of a shared file -> where it shows. */
type Shown = Map<number, Map<string, string[]>>;

const keyOf = ({ level, path }: LevelFile): string => `${level}\0${path}`;

/** Each appliance is opened once, for all that its layers hold. */
function shownPlaces(job: ScanJob, found: Held[]): Shown {
  const files = new Map<number, LevelFile[]>();
  for (const { places } of found) {
    for (const { holder, path } of places) {
      if (holder.level === null) continue;
      for (const stack of holder.stacks) {
        const wanted = files.get(stack);
        if (wanted === undefined) files.set(stack, [{ level: holder.level, path }]);
        else wanted.push({ level: holder.level, path });
      }
    }
  }
  const shown: Shown = new Map();
  if (files.size === 0) return shown;
  for (const [i, appliance] of job.appliances.entries()) {
    const wanted = files.get(appliance.stack);
    if (wanted === undefined) continue;
    const { name, privateDir, whiteoutsDir } = appliance;
    const spec: VlfsSpec = {
      name,
      privateDir,
      whiteoutsDir,
      stack: job.stacks[appliance.stack]!,
      readOnly: true,
    };
    try {
      const paths = whereShown(spec, wanted);
      shown.set(i, new Map(wanted.map((file, at) => [keyOf(file), paths[at]!])));
    } catch {
      // Deleted meanwhile, or damaged: then it shows nothing.
    }
  }
  return shown;
}

function* placesOf(job: ScanJob, holder: Holder, path: string, shown: Shown): Generator<ScanPlace> {
  const { layer } = holder;
  if (holder.level === null) {
    const { name } = job.appliances[holder.appliance]!;
    yield { appliance: name, path: `/${nameToText(path)}`, layer, shown: true };
    return;
  }
  const stacks = new Set(holder.stacks);
  for (const [i, { name, stack }] of job.appliances.entries()) {
    if (!stacks.has(stack)) continue;
    const visible = shown.get(i)?.get(keyOf({ level: holder.level, path })) ?? [];
    for (const at of visible) yield { appliance: name, path: `/${nameToText(at)}`, layer, shown: true };
    if (visible.length === 0) yield { appliance: name, path: `/${nameToText(path)}`, layer, shown: false };
  }
}
