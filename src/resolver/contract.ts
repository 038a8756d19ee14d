/**
 * The resolver: from the metadata of all units that repositories offer, the best consistent set for a request.
 * Pure and deterministic: the same input gives the same answer, whatever the order of the records.
 */
import type { UnitMetadata } from '../formats/contract.ts';

/** A unit that a repository offers. */
export interface OfferedUnit extends UnitMetadata {
  repo: string;
}

/** What must be in the solution. */
export interface Wish {
  /** Only from this repository, when given. */
  repo?: string;
  layer: string;
  /** Exactly this version, when given. */
  version?: string;
}

export interface InstalledUnit {
  repo: string;
  layer: string;
  version: string;
  /** Must stay exactly as it is. */
  held?: boolean;
}

export interface ResolveRequest {
  /** Explicit layers. */
  wishes: Wish[];
  /** What the LDF holds now: preferred as it is (fewest changes), except where `upgrade` says newest. */
  installed?: InstalledUnit[];
  /** 'none': keep installed versions where possible. 'all': newest version of everything not held. */
  upgrade?: 'none' | 'all';
  /** Treat Recommends as wishes that may fail. */
  recommends?: boolean;
}

export interface SolvedUnit {
  unit: OfferedUnit;
  explicit: boolean;
  /** Why an implicit unit is in: the unit that needs it and the relation's text; null for explicit ones; for base units, requiredBy is null and relation 'essential'. */
  reason: { requiredBy: string | null; relation: string } | null;
}

export interface Explanation {
  /** One sentence, e.g. `cannot add main/boa: it conflicts with main/apache2 (both provide httpd)`. */
  summary: string;
  /** The shortest chain of facts that make it impossible, one line each. */
  chain: string[];
  hint: string;
}

export type ResolveResult =
  | {
      ok: true;
      /** Explicit units in the order of the wishes, then the others by name. */
      units: SolvedUnit[];
      /** `REPO/LAYER VERSION` of units whose layer was not installed, and of installed ones whose layer is not in any more; sorted. */
      added: string[];
      removed: string[];
      changed: { layer: string; from: string; to: string }[];
      elapsedMs: number;
    }
  | { ok: false; explanation: Explanation; elapsedMs: number };

/** Built once from the offered units (63,000 in well under 2 s), then used for many requests. */
export interface Universe {
  readonly size: number;
  resolve(request: ResolveRequest): ResolveResult;
  /** Units of one layer over all repositories, newest first. */
  versions(layer: string, repo?: string): OfferedUnit[];
  /** Units that provide a (virtual) layer name. */
  providers(name: string): OfferedUnit[];
  /** The shortest chain from an explicit unit of `solution` to `layer`, as lines for people; [] when it is not in. */
  why(solution: SolvedUnit[], layer: string): string[];
}
