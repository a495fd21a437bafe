import { stat } from "node:fs/promises";
import { draSockets, isAnswered } from "./socket-files.ts";

/**
 * Tells whether a younger process of this driver serves the node, too: in a rolling update both do for a while. The age of
 * its socket decides; one that was killed does not answer, and counts no more.
 *
 * @param own path of this process's DRA socket, in `folder`.
 */
export async function hasSuccessor(folder: string, own: string): Promise<boolean> {
  const ages = await Promise.all(
    (await draSockets(folder)).map(async (path) => ({ path, madeNs: await madeNs(path) })),
  );
  const mine = ages.find(({ path }) => path === own)?.madeNs ?? 0n;
  const younger = ages.filter(({ path, madeNs }) => path !== own && (madeNs > mine || (madeNs === mine && path > own)));
  return (await Promise.all(younger.map(({ path }) => isAnswered(path).catch(() => false)))).includes(true);
}

async function madeNs(path: string): Promise<bigint> {
  return stat(path, { bigint: true }).then(
    ({ mtimeNs }) => mtimeNs,
    () => -1n,
  );
}
