import type { KubernetesObject } from "../api/kubernetes.ts";
import type { KubeClient } from "./client.ts";

export interface ListOptions<R, T> {
  client: KubeClient;
  /** Path of the collection, from `resourcePath`. */
  path: string;
  project: (raw: R) => T;
  signal?: AbortSignal;
  /** The collection as it was at this version; default: as it is now. Refused with 410 once that is compacted. */
  resourceVersion?: string | undefined;
}

/** One page; `unreadable`: `namespace/name` of objects that `project` refused. */
export interface Page<T> {
  items: T[];
  unreadable: string[];
  /** Of the whole list. */
  resourceVersion?: string | undefined;
}

interface ListAnswer<R> {
  metadata?: { continue?: string; resourceVersion?: string };
  items?: R[];
}

const pageSize = 500;

/**
 * A collection read afresh, as it is at the time of the first page. Pages follow one another, each when the caller asks
 * for it, so that a large collection never comes in one piece.
 */
export async function* listPages<R extends KubernetesObject, T>(options: ListOptions<R, T>): AsyncGenerator<Page<T>> {
  const { client, path, project, signal, resourceVersion } = options;
  let token: string | undefined;
  do {
    // A token stands for the version too.
    const exactly = token === undefined && resourceVersion !== undefined;
    const pinned = exactly ? { resourceVersion, resourceVersionMatch: "Exact" } : {};
    const answer = await client.request<ListAnswer<R>>("GET", path, {
      query: { limit: pageSize, continue: token, ...pinned },
      ...(signal === undefined ? {} : { signal }),
    });
    if (!Array.isArray(answer?.items)) throw new Error(`GET ${path}: the answer is not a list with items`);
    yield { ...projectPage(answer.items, project), resourceVersion: answer.metadata?.resourceVersion };
    token = answer.metadata?.continue || undefined;
  } while (token !== undefined);
}

function projectPage<R extends KubernetesObject, T>(raws: readonly R[], project: (raw: R) => T): Page<T> {
  const page: Page<T> = { items: [], unreadable: [] };
  for (const raw of raws) {
    try {
      page.items.push(project(raw));
    } catch {
      page.unreadable.push(`${raw.metadata.namespace ?? ""}/${raw.metadata.name}`);
    }
  }
  return page;
}
