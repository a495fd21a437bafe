import { inspect } from "node:util";
import type { KubernetesObject } from "../../src/api/kubernetes.ts";
import type { KubeClient } from "../../src/kube/client.ts";
import { createReflector } from "../../src/kube/reflector.ts";

/** One kind of object on a real API server, followed by a watch. */
export interface Followed<T> {
  /** By `namespace/name`. */
  readonly items: ReadonlyMap<string, T>;
  /** Waits for `find` to answer something, looking again after every change; rejects with the last state after a minute. */
  until<V>(what: string, find: (items: ReadonlyMap<string, T>) => V | undefined): Promise<V>;
  stop(): Promise<void>;
}

const patienceMs = 60_000;

/** Follows the collection at `path`; resolves once it has been listed. */
export async function follow<T extends KubernetesObject>(client: KubeClient, path: string): Promise<Followed<T>> {
  const waiting = new Set<() => void>();
  const reflector = createReflector<T, T>({
    client,
    path,
    name: path,
    project: (raw) => raw,
    onChange: () => {
      for (const look of [...waiting]) look();
    },
  });
  reflector.start();
  await reflector.waitForSync();
  return {
    items: reflector.items,
    stop: () => reflector.stop(),
    until: <V>(what: string, find: (items: ReadonlyMap<string, T>) => V | undefined) =>
      new Promise<V>((resolve, reject) => {
        const timer = setTimeout(() => {
          waiting.delete(look);
          reject(
            new Error(`waited in vain: ${what}; last seen ${inspect([...reflector.items.values()], { depth: 6 })}`),
          );
        }, patienceMs);
        const look = (): void => {
          const found = find(reflector.items);
          if (found === undefined) return;
          waiting.delete(look);
          clearTimeout(timer);
          resolve(found);
        };
        waiting.add(look);
        look();
      }),
  };
}
