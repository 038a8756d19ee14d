/**
 * Reads a request against the universe: which units may fulfil each wish and hold, and which offered unit stands for
 * each installed one. What can be refused without a search (an unknown layer, version or repository) is refused here.
 */
import { compareVersions, satisfies } from '../formats/index.ts';
import type { Explanation, ResolveRequest, Wish } from './contract.ts';
import { similarNames } from './similar-names.ts';
import type { UnitIndex } from './unit-index.ts';

/** Something that must be in: one of `candidates`. */
export interface Target {
  kind: 'wish' | 'hold';
  layer: string;
  /** `main/foo`, or `main/foo 1.0` when the version is fixed. */
  label: string;
  candidates: readonly number[];
  /** Its layer was installed before this request. */
  installed: boolean;
}

export interface InstalledLayer {
  layer: string;
  repo: string;
  version: string;
  held: boolean;
  /** The offered unit that it is, or -1 when it is no longer offered. */
  unit: number;
}

export interface Targets {
  targets: Target[];
  /** By layer name. */
  installed: Map<string, InstalledLayer>;
}

export function readTargets(index: UnitIndex, request: ResolveRequest): Targets | Explanation {
  const installed = new Map<string, InstalledLayer>();
  for (const { repo, layer, version, held } of request.installed ?? []) {
    const unit = index.ofLayer(layer).find((id) => {
      const offered = index.units[id]!;
      return offered.repo === repo && offered.version === version;
    });
    installed.set(layer, { layer, repo, version, held: held === true, unit: unit ?? -1 });
  }
  const targets: Target[] = [];
  for (const wish of request.wishes) {
    const candidates = index.ofLayer(wish.layer).filter((id) => fits(index, id, wish));
    if (candidates.length === 0) return explainUnknown(index, wish);
    const name = wish.repo === undefined ? wish.layer : `${wish.repo}/${wish.layer}`;
    targets.push({
      kind: 'wish',
      layer: wish.layer,
      label: wish.version === undefined ? name : `${name} ${wish.version}`,
      candidates,
      installed: installed.has(wish.layer),
    });
  }
  for (const held of installed.values()) {
    if (!held.held) continue;
    const label = `${held.repo}/${held.layer} ${held.version}`;
    if (held.unit < 0) {
      return {
        summary: `cannot keep ${label}: it is held, but no repository offers it any more`,
        chain: [`${label} is held`, `no repository offers ${label}`],
        hint: `unhold ${held.layer}, or offer that version again`,
      };
    }
    targets.push({ kind: 'hold', layer: held.layer, label, candidates: [held.unit], installed: true });
  }
  return { targets, installed };
}

function fits(index: UnitIndex, id: number, wish: Wish): boolean {
  const unit = index.units[id]!;
  return (
    (wish.repo === undefined || unit.repo === wish.repo) &&
    (wish.version === undefined || satisfies(unit.version, '=', wish.version))
  );
}

function explainUnknown(index: UnitIndex, wish: Wish): Explanation {
  const label = wish.repo === undefined ? wish.layer : `${wish.repo}/${wish.layer}`;
  const refuse = (fact: string, hint: string): Explanation => ({
    summary: `cannot add ${label}${wish.version === undefined ? '' : ` ${wish.version}`}: ${fact}`,
    chain: [fact],
    hint,
  });
  if (wish.repo !== undefined && !index.hasRepository(wish.repo)) {
    return refuse(
      `there is no repository ${wish.repo}, or it offers nothing`,
      'see `strata repo list`; `strata repo sync` reads a repository anew',
    );
  }
  const everywhere = index.ofLayer(wish.layer);
  const here = everywhere.filter((id) => wish.repo === undefined || index.units[id]!.repo === wish.repo);
  if (here.length > 0) {
    const offered = [...new Set(here.map((id) => index.units[id]!.version))].sort((a, b) =>
      compareVersions(b, a),
    );
    const shown = offered.slice(0, 5).join(', ');
    return refuse(
      `that version is not offered; offered: ${shown}${offered.length > 5 ? ', ...' : ''}`,
      `name one of the offered versions, or none for the newest`,
    );
  }
  if (everywhere.length > 0) {
    const others = [...new Set(everywhere.map((id) => index.units[id]!.repo))].sort();
    return refuse(
      `${wish.repo} does not offer it, but ${others.join(', ')} does`,
      `did you mean ${others[0]}/${wish.layer}?`,
    );
  }
  const providers = [...new Set(index.providersOf(wish.layer).map((id) => index.units[id]!.layer))];
  if (providers.length > 0) {
    const shown = providers.slice(0, 5).join(', ');
    return refuse(
      `${wish.layer} is a virtual layer`,
      `name one that provides it: ${shown}${providers.length > 5 ? ', ...' : ''}`,
    );
  }
  const similar = similarNames(wish.layer, index.layerNames());
  return refuse(
    wish.repo === undefined ? 'no repository offers it' : `${wish.repo} does not offer it`,
    similar.length > 0 ? `did you mean ${similar.join(', ')}?` : 'see `strata layer list`',
  );
}
