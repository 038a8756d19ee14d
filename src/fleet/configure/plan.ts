/**
 * From a change of units to what must be done: which scripts run in which order, what dpkg's database says before, and whether a
 * container is needed at all. Reads unit directories, changes nothing.
 */
import { stanzaField } from '../../formats/index.ts';
import type { ConfigFile, UnitChange } from './contract.ts';
import { extendedStates, formatStatus, parseStatus, stanzaKey, statusStanza } from './dpkg-status.ts';
import { bootstrapSet, type DependencyGraph, dependencyGraph, dependencyOrder, stages } from './stages.ts';
import { type Activation, activatedTriggers, type TriggerFiles, triggerFiles } from './triggers.ts';
import { DPKG_SCRIPT, type ScriptName, type UnitFacts, unitFacts, unitPaths } from './unit-facts.ts';

export type Step =
  /** Runs a maintainer script. `staged`: from the old unit's directory, else from the root file system (or the unit, when built by hand). */
  | { do: 'script'; unit: UnitFacts; script: ScriptName; args: string[]; old: boolean; orElse?: Step }
  /** Puts dpkg's new status and trigger index in place. */
  | { do: 'database' }
  | { do: 'configure'; units: UnitFacts[] | null; forceDepends: boolean }
  | { do: 'trigger'; activation: Activation }
  | { do: 'ldconfig' };

export interface Plan {
  needsContainer: boolean;
  /** True when there are Debian packages: dpkg's database exists. */
  dpkg: boolean;
  /** True when dpkg's own base is configured for the first time. */
  bootstrap: boolean;
  steps: Step[];
  /** dpkg's status before the run: changed packages are unpacked. */
  statusBefore(): string;
  /** dpkg's status when nothing needs to run: everything is installed. */
  statusAfter(): string;
  extendedStates(): string;
  triggers: TriggerFiles;
  /** Foreign architectures, for var/lib/dpkg/arch; empty when there is only one. */
  architectures: string[];
  /** Old units whose scripts are run. */
  removed: UnitFacts[];
  /** New packages that came without checksums of their files; dpkg makes those when it unpacks. */
  withoutSums: UnitFacts[];
  /** Number of units that are new, upgraded or removed. */
  changed: number;
}

interface Member {
  facts: UnitFacts;
  kind: 'new' | 'upgraded' | 'unchanged';
  previous: UnitFacts | null;
  auto: boolean;
}

const plans = new WeakMap<UnitChange[], { previousStatus: string | null; plan: Plan }>();

/** The plan, made once for a list of changes. `previousStatus` is dpkg's status text of the generation before, or null. */
export function planConfigure(changes: UnitChange[], previousStatus: string | null): Plan {
  const known = plans.get(changes);
  if (known?.previousStatus === previousStatus) return known.plan;
  const plan = makePlan(changes, previousStatus);
  plans.set(changes, { previousStatus, plan });
  return plan;
}

function makePlan(changes: UnitChange[], previousStatus: string | null): Plan {
  const previous = parseStatus(previousStatus);
  const members = changes.filter((c) => c.kind !== 'removed').map((change) => member(change, previous));
  const removed = changes.filter((c) => c.kind === 'removed').map((c) => unitFacts(c.dir));
  const units = members.map((m) => m.facts);
  const moved = members.filter((m) => m.kind !== 'unchanged');
  const packages = units.filter((u) => u.control !== null);
  const graph = dependencyGraph(units);
  const hasNewBase = moved.some((m) => m.kind === 'new' && m.facts.layer === 'base-passwd');
  const bootstrap = packages.length > 0 && previousStatus === null && hasNewBase;
  const settledBefore = members.filter((m) => m.kind === 'unchanged').map((m) => m.facts);
  const changedFacts = [
    ...moved.flatMap((m) => (m.previous ? [m.facts, m.previous] : [m.facts])),
    ...removed,
  ];
  const activations = activatedTriggers(changedFacts, settledBefore, unitPaths);
  const ldconfig = changedFacts.some((u) => u.control === null && hasLibrary(u));
  const withoutSums = moved.map((m) => m.facts).filter((u) => u.control !== null && !u.hasSums);
  const needsContainer =
    withoutSums.length > 0 ||
    activations.length > 0 ||
    ldconfig ||
    changedFacts.some((u) => u.scripts.size > 0) ||
    hasInterest(moved);
  return {
    needsContainer,
    dpkg: packages.length > 0,
    bootstrap,
    steps: needsContainer ? steps({ members, removed, graph, bootstrap, activations, ldconfig }) : [],
    statusBefore: () => statusText(members, previous, 'install ok unpacked'),
    statusAfter: () => statusText(members, previous, 'install ok installed'),
    extendedStates: () => extendedStates(members),
    triggers: triggerFiles(packages),
    architectures: architectures(packages),
    removed,
    withoutSums,
    changed: moved.length + removed.length,
  };
}

function member(change: UnitChange, previous: Map<string, Map<string, string>>): Member {
  const facts = unitFacts(change.dir);
  const auto = change.auto ?? false;
  let kind = change.kind as Member['kind'];
  const stanza = facts.control === null ? undefined : previous.get(stanzaKey(facts.control));
  // A package that dpkg does not know yet is new, whatever the stack was before.
  if (facts.control !== null && stanza === undefined && kind === 'unchanged') kind = 'new';
  const old = kind === 'upgraded' && change.previousDir ? unitFacts(change.previousDir) : null;
  return { facts, kind, previous: old, auto };
}

/** Packages that are interested in triggers must be configured once by dpkg, which runs what they wait for. */
function hasInterest(moved: Member[]): boolean {
  return moved.some((m) => /^\s*interest/m.test(m.facts.triggers));
}

function hasLibrary(unit: UnitFacts): boolean {
  return unitPaths(unit).some((path) => /^\/(usr\/(local\/)?)?lib[^/]*\/.*\.so(\.|$)/.test(path));
}

function statusText(
  members: Member[],
  previous: Map<string, Map<string, string>>,
  status: 'install ok unpacked' | 'install ok installed',
): string {
  const stanzas: Map<string, string>[] = [];
  for (const { facts, kind, previous: old } of members) {
    const before = facts.control === null ? undefined : previous.get(stanzaKey(facts.control));
    if (kind === 'unchanged' && before !== undefined) {
      stanzas.push(before);
      continue;
    }
    const configVersion =
      status === 'install ok unpacked' && kind === 'upgraded'
        ? (old?.version ?? (before && stanzaField(before, 'Version')))
        : undefined;
    const stanza = statusStanza(facts, { status, configVersion });
    if (stanza !== null) stanzas.push(stanza);
  }
  return formatStatus(stanzas);
}

function architectures(packages: UnitFacts[]): string[] {
  const native = packages.find((u) => u.layer === 'dpkg')?.architecture;
  const foreign = new Set(packages.map((u) => u.architecture));
  foreign.delete('all');
  if (native === undefined || foreign.size < 2) return [];
  return [native, ...[...foreign].filter((a) => a !== native).sort()];
}

interface StepsInput {
  members: Member[];
  removed: UnitFacts[];
  graph: DependencyGraph;
  bootstrap: boolean;
  activations: Activation[];
  ldconfig: boolean;
}

function steps(input: StepsInput): Step[] {
  const { members, removed, graph, bootstrap } = input;
  const memberOf = new Map(members.map((m) => [m.facts, m]));
  const moved = members.filter((m) => m.kind !== 'unchanged');
  const packages = moved.filter((m) => m.facts.control !== null).map((m) => m.facts);
  const own = dependencyOrder(
    graph,
    moved.filter((m) => m.facts.control === null).map((m) => m.facts),
  );
  const list: Step[] = [];

  for (const unit of removed) list.push(...script(unit, 'pre-remove', ['remove'], true));
  for (const { facts, previous } of moved) if (previous) list.push(...preRemoveForUpgrade(facts, previous));
  for (const unit of removed) list.push(...script(unit, 'post-remove', ['remove'], true));
  list.push({ do: 'database' });

  const preInstall = (unit: UnitFacts): Step[] => {
    const { previous } = memberOf.get(unit)!;
    const args = previous ? ['upgrade', previous.version, unit.version] : ['install'];
    return [
      ...script(unit, 'pre-install', args, false),
      ...(previous ? script(previous, 'post-remove', ['upgrade', unit.version], true) : []),
    ];
  };

  const settled = new Set(members.filter((m) => m.kind === 'unchanged').map((m) => m.facts));
  const configured: UnitFacts[] = [];
  if (bootstrap) {
    const base = bootstrapSet(graph, packages).filter((u) => packages.includes(u));
    const passwd = base.filter((u) => u.layer === 'base-passwd');
    // Every other script may ask for users; base-passwd says so to nobody.
    for (const unit of passwd) list.push(...preInstall(unit));
    list.push({ do: 'configure', units: passwd, forceDepends: true });
    const rest = dependencyOrder(graph, base).filter((u) => !passwd.includes(u));
    for (const unit of rest) list.push(...preInstall(unit));
    list.push({ do: 'configure', units: rest, forceDepends: true });
    for (const unit of base) settled.add(unit);
    configured.push(...base);
  }
  for (const unit of own) list.push(...preInstall(unit));
  const withPostRemove = packages.filter((u) => !u.scripts.has('pre-install') && memberOf.get(u)!.previous);
  for (const unit of withPostRemove) list.push(...preInstall(unit));
  for (const stage of stages(graph, packages, settled)) {
    for (const unit of stage.preInstall) list.push(...preInstall(unit));
    if (stage.configure && stage.configure.length > 0)
      list.push({ do: 'configure', units: stage.configure, forceDepends: true });
  }
  // What dpkg would have noticed while it unpacked.
  const later = packages.filter((u) => !configured.includes(u));
  const missed = bootstrap ? activatedTriggers(later, configured, unitPaths) : [];
  for (const activation of [...input.activations, ...missed]) list.push({ do: 'trigger', activation });
  if (members.some((m) => m.facts.control !== null))
    list.push({ do: 'configure', units: null, forceDepends: false });
  for (const unit of own) {
    const { previous } = memberOf.get(unit)!;
    list.push(
      ...script(unit, 'post-install', previous ? ['configure', previous.version] : ['configure'], false),
    );
  }
  if (input.ldconfig) list.push({ do: 'ldconfig' });
  return list;
}

function script(unit: UnitFacts, name: ScriptName, args: string[], old: boolean): Step[] {
  return unit.scripts.has(name) ? [{ do: 'script', unit, script: name, args, old }] : [];
}

/** Policy 6.6: when the old version's prerm fails, the new version's may repair it. */
function preRemoveForUpgrade(unit: UnitFacts, previous: UnitFacts): Step[] {
  const [step] = script(previous, 'pre-remove', ['upgrade', unit.version], true);
  if (step?.do !== 'script') return [];
  const [orElse] = script(unit, 'pre-remove', ['failed-upgrade', previous.version, unit.version], false);
  return [orElse ? { ...step, orElse } : step];
}

/** The name by which a script is known to users: dpkg's for packages, the paper's for layers built by hand. */
export function scriptLabel(unit: UnitFacts, script: ScriptName): string {
  return unit.control === null ? script : DPKG_SCRIPT[script];
}

/** True when the change needs a container run; false when dpkg's database is all that changes (see databaseFiles). */
export function needsContainer(changes: UnitChange[], previousStatus: string | null): boolean {
  return planConfigure(changes, previousStatus).needsContainer;
}

/** The files of dpkg's and apt's databases for a change that needs no container. Empty when there are no Debian packages. */
export function databaseFiles(changes: UnitChange[], previousStatus: string | null): ConfigFile[] {
  const plan = planConfigure(changes, previousStatus);
  if (!plan.dpkg) return [];
  return [
    { path: 'var/lib/dpkg/status', content: plan.statusAfter() },
    { path: 'var/lib/apt/extended_states', content: plan.extendedStates() },
  ];
}
