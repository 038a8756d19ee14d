/**
 * Stanzas of dpkg's databases and their texts, remembered: from one generation to the next a handful of hundreds of stanzas change, and
 * templates share most of theirs.
 */
import { formatStanza, parseStanzas, type Stanza } from '../../formats/index.ts';

const CAPACITY = 4096;
const parsed = new Map<string, readonly Stanza[]>();
const formatted = new WeakMap<Stanza, string>();

/** The stanzas of a database; do not change them. Throws FormatError. */
export function stanzasOf(text: string): Stanza[] {
  return text.split('\n\n').flatMap((part) => {
    let stanzas = parsed.get(part);
    if (stanzas === undefined) {
      stanzas = parseStanzas(part, { format: 'dpkg status' });
      if (parsed.size >= CAPACITY) parsed.delete(parsed.keys().next().value!);
      parsed.set(part, stanzas);
    }
    return stanzas;
  });
}

/** The stanza's lines. */
export function stanzaText(stanza: Stanza): string {
  let text = formatted.get(stanza);
  if (text === undefined) {
    text = formatStanza(stanza);
    formatted.set(stanza, text);
  }
  return text;
}
