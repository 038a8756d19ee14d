/** Appliances: state, LDF, template, private layer and whiteout sets, links of machines both ways, and the catalog against all of it. */
import { lstatSync, readlinkSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { asStrataError } from '../../base/index.ts';
import { quotaFile, readLimits } from '../../vlfs/index.ts';
import type { ApplianceState } from '../appliances/appliances.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import { normalizeMac } from '../appliances/macs.ts';
import { isUnfinished } from '../clone/finish-frozen.ts';
import { frozenDir, frozenList } from '../clone/frozen.ts';
import { familyOf } from '../family/record.ts';
import { baseDir, baseOf } from '../import/base.ts';
import { hasSealedRecord, sealedGeneration, sealedRecord } from '../sealed/records.ts';
import {
  isThere,
  namesIn,
  readJsonIfThere,
  readTextIfThere,
  removeTree,
  replaceLink,
  syncDirectory,
} from '../state/files.ts';
import { COMMIT } from '../state/locks.ts';
import { applianceOwner, type FleetPaths } from '../state/paths.ts';
import { ldfRefs, parseLdf } from '../templates/ldf.ts';
import { checkGenerations, checkOwner } from './definitions.ts';
import { checkPrivateLayers } from './private.ts';
import { examine, type Finding, type FsckRun } from './run.ts';

export async function checkAppliances(run: FsckRun): Promise<void> {
  const { paths } = run.context;
  const names = namesIn(paths.appliances).filter((name) => !name.startsWith('.'));
  const ofMac = new Map<string, string>();
  for (const name of names) {
    run.checked.appliances++;
    await examine(run, () => checkAppliance(run, name));
    await examine(run, () => checkMac(run, name, ofMac));
    if (isThere(join(paths.appliances, name, 'generations')))
      await checkGenerations(run, applianceOwner(name));
  }
  for (const mac of namesIn(paths.machines))
    if (!mac.startsWith('.')) await examine(run, () => checkMachine(run, mac));
  await checkCatalog(run);
  await checkPrivateLayers(run, names);
}

/** state.json of an appliance, or what is wrong with it. */
function stateOf(run: FsckRun, name: string): ApplianceState | string {
  try {
    const file = join(run.context.paths.appliances, name, 'state.json');
    const state = readJsonIfThere(file) as ApplianceState | null;
    if (state === null) return 'it has no state.json';
    if (state.format !== 1 || typeof state.template !== 'string' || typeof state.mac !== 'string')
      return 'its state.json is not one of this version';
    if (state.name !== name) return `its state.json is that of ${JSON.stringify(state.name)}`;
    if (frozenList(state.frozen) === null) return 'the list of its frozen layers is damaged';
    if (familyOf(state) === null) return 'what its state.json says of its family is damaged';
    if (normalizeMac(state.mac) !== state.mac) return `its MAC address ${state.mac} is not in the usual form`;
    return state;
  } catch (error) {
    return asStrataError(error).message;
  }
}

function checkAppliance(run: FsckRun, name: string): Finding[] {
  const { context } = run;
  const { paths } = context;
  const dir = join(paths.appliances, name);
  if (!isThere(dir)) return [];
  const object = `appliance ${name}`;
  const state = stateOf(run, name);
  if (typeof state === 'string') {
    const isOrphan = !isThere(join(dir, 'state.json')) && !lstatSync(dir).isSymbolicLink();
    const isEmpty = namesIn(join(dir, 'private')).length === 0;
    if (!isOrphan || !isEmpty)
      return [{ object, problem: state, remedy: `restore ${dir}/state.json; its private layer is whole` }];
    return [
      {
        object,
        problem: `${dir} has no state.json and no private files: nothing refers to it`,
        remedy: 'strata fsck --repair removes it',
        repair: () =>
          context.locks.with([COMMIT], () => {
            if (isThere(join(dir, 'state.json'))) return;
            removeTree(dir);
            syncDirectory(paths.appliances);
            context.catalog.put([]);
          }),
      },
    ];
  }
  const findings: Finding[] = [];
  const add = (problem: string, remedy: string): void => void findings.push({ object, problem, remedy });
  if (!context.templates.has(state.template))
    add(
      `its template ${state.template} does not exist`,
      'make a template of that name, or delete the appliance',
    );
  if (!isDirectory(join(dir, 'private')))
    add('its private layer is missing', `mkdir -m 755 ${join(dir, 'private')}`);
  const isMissing = (id: string): boolean => !isDirectory(join(frozenDir(paths, id), 'private'));
  for (const id of (frozenList(state.frozen) ?? []).filter(isMissing))
    add(`its frozen layer ${id} is missing`, 'restore it from a backup; what it held is not shown');
  for (const id of (frozenList(state.frozen) ?? []).filter((one) => isUnfinished(context, one)))
    add(
      `its frozen layer ${id} has files of which the content is missing (frozen/${id}/following)`,
      'strata daemon restart tries to copy it again',
    );
  for (const { name: snapshot, frozen } of state.snapshots ?? [])
    for (const id of frozen.filter(isMissing))
      add(
        `its snapshot ${snapshot} lacks the frozen layer ${id}`,
        `restore it from a backup, or: strata delete ${name}@${snapshot}`,
      );
  for (const problem of baseProblems(paths, name))
    add(problem, 'restore it from a backup: without it the appliance cannot be shown');
  if (isThere(quotaFile(join(dir, 'private'))) && readLimits(join(dir, 'private')) === null)
    add('its quota cannot be read, so it has none', `strata quota ${name} SIZE sets it anew`);
  const hasCurrent = isThere(join(dir, 'current'));
  if (hasCurrent || state.own) {
    findings.push(...checkOwner(run, applianceOwner(name), context.ownDefinitions.get(name)?.record ?? null));
  } else {
    try {
      const file = join(dir, 'ldf');
      const text = readTextIfThere(file);
      if (text === null) add('it has no ldf', `write "@${state.template}" to ${file}`);
      else if (!ldfRefs(parseLdf(text, file)).includes(state.template))
        add(`its LDF does not refer to its template ${state.template}`, `edit ${file}`);
    } catch (error) {
      add(asStrataError(error).message, `edit ${join(dir, 'ldf')}`);
    }
  }
  if (hasSealedRecord(context, name)) {
    const record = sealedRecord(context, name);
    if (record === null || sealedGeneration(context, record) === null)
      add(
        'what its sealed mount shows is not known (sealed.json)',
        'unmount it; its private layer is kept as the kernel wrote it',
      );
  }
  return findings;
}

/** What is wrong with the root file system that the appliance was imported from. */
function baseProblems(paths: FleetPaths, name: string): string[] {
  try {
    const id = baseOf(paths, name);
    if (id === null) return [];
    const isWhole =
      isDirectory(join(baseDir(paths, id), 'tree')) && isThere(join(baseDir(paths, id), 'index'));
    return isWhole ? [] : [`its base imports/${id} is missing or not whole`];
  } catch (error) {
    return [asStrataError(error).message];
  }
}

function isDirectory(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

/** Each appliance has a link of its own in machines/, and no two have one address. */
function checkMac(run: FsckRun, name: string, ofMac: Map<string, string>): Finding[] {
  const { paths, locks } = run.context;
  const state = stateOf(run, name);
  if (typeof state === 'string') return [];
  const object = `appliance ${name}`;
  const other = ofMac.get(state.mac);
  if (other !== undefined && other !== name) {
    const isSame = stateOf(run, other);
    if (typeof isSame !== 'string' && isSame.mac === state.mac)
      return [
        {
          object,
          problem: `appliance ${other} has the same MAC address ${state.mac}`,
          remedy: 'delete one of them, or change its state.json',
        },
      ];
  }
  ofMac.set(state.mac, name);
  const link = join(paths.machines, state.mac);
  const target = linkTarget(link);
  if (target === `../appliances/${name}`) return [];
  return [
    {
      object,
      problem:
        target === null ? `machines/${state.mac} is missing` : `machines/${state.mac} leads to ${target}`,
      remedy: 'strata fsck --repair makes it anew',
      repair: () =>
        locks.with([COMMIT], () => {
          const now = stateOf(run, name);
          if (typeof now === 'string' || now.mac !== state.mac) return;
          replaceLink(link, `../appliances/${name}`);
          syncDirectory(paths.machines);
        }),
    },
  ];
}

function linkTarget(path: string): string | null {
  try {
    return readlinkSync(path);
  } catch {
    return null;
  }
}

/** Each link in machines/ leads to the appliance that has the address. */
function checkMachine(run: FsckRun, mac: string): Finding[] {
  const { paths, locks } = run.context;
  const path = join(paths.machines, mac);
  if (!isThere(path)) return [];
  const target = linkTarget(path);
  const name = target === null ? '' : basename(target);
  const state = target === `../appliances/${name}` ? stateOf(run, name) : 'no appliance';
  if (typeof state !== 'string' && state.mac === mac) return [];
  // The appliance that it leads to is damaged itself; its address is not known.
  if (
    typeof state === 'string' &&
    target === `../appliances/${name}` &&
    isThere(join(paths.appliances, name))
  )
    return [];
  return [
    {
      object: `machines/${mac}`,
      problem: target === null ? 'it is no link' : `it leads to ${target}, which has not this address`,
      remedy: 'strata fsck --repair removes it',
      ...(target === null
        ? {}
        : {
            repair: () =>
              locks.with([COMMIT], () => {
                rmSync(path, { force: true });
                syncDirectory(paths.machines);
              }),
          }),
    },
  ];
}

function describe(row: CatalogRow | null): string {
  if (row === null) return 'nothing';
  const { createdAt: _, ...family } = row.family;
  const isAlone = JSON.stringify(family) === JSON.stringify(NO_FAMILY);
  return [
    `${row.mac} @${row.template}`,
    row.own ? ' with layers of its own' : '',
    row.heldBack === null ? '' : ', held back',
    ...row.frozen.map((id) => ` +${id}`),
    isAlone ? '' : ` ${JSON.stringify(family)}`,
  ].join('');
}

const NO_FAMILY = { parent: null, base: null, merges: [], snapshots: [], expires: null };

/** The catalog shows what the files show. Appliances whose state cannot be read are reported for themselves. */
async function checkCatalog(run: FsckRun): Promise<void> {
  const { context } = run;
  context.catalog.reread();
  const differing = new Set<string>();
  for (const name of allNames(run)) {
    await run.breathe();
    if (differs(run, name)) differing.add(name);
  }
  if (differing.size === 0) return;
  await examine(run, () =>
    [...differing]
      .filter((name) => differs(run, name))
      .map((name) => ({
        object: 'catalog.sqlite',
        problem: `it says of appliance ${name}: ${describe(context.catalog.get(name))}; the files say: ${describe(rowOf(run, name))}`,
        remedy: 'strata fsck --repair rebuilds it',
        repair: () => context.locks.with([COMMIT], () => rebuild(run)),
      })),
  );
}

function allNames(run: FsckRun): Set<string> {
  const { context } = run;
  const names = namesIn(context.paths.appliances).filter((name) => !name.startsWith('.'));
  return new Set([...names, ...context.catalog.all().map(({ name }) => name)]);
}

function differs(run: FsckRun, name: string): boolean {
  const row = rowOf(run, name);
  if (row === null && isThere(join(run.context.paths.appliances, name))) return false;
  return describe(row) !== describe(run.context.catalog.get(name));
}

function rebuild(run: FsckRun): void {
  const { context } = run;
  const found = rows(run);
  const names = namesIn(context.paths.appliances).filter((name) => !name.startsWith('.'));
  context.catalog.rebuild(found, found.length >= names.length);
}

/** Of the files; what cannot be read stays as the catalog has it. */
function rows(run: FsckRun): CatalogRow[] {
  const found: CatalogRow[] = [];
  for (const name of allNames(run)) {
    const isDir = isThere(join(run.context.paths.appliances, name));
    const row = rowOf(run, name) ?? (isDir ? run.context.catalog.get(name) : null);
    if (row !== null) found.push(row);
  }
  return found;
}

function rowOf(run: FsckRun, name: string): CatalogRow | null {
  const state = stateOf(run, name);
  if (typeof state === 'string') return null;
  const own = isThere(join(run.context.paths.appliances, name, 'current'));
  const { mac, template, heldBack } = state;
  const frozen = frozenList(state.frozen) ?? [];
  return { name, mac, template, own, generation: null, heldBack, frozen, family: familyOf(state)! };
}
