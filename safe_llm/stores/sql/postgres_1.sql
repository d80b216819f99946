-- Version 1 of the tables and functions of PostgresQuotaStore. {schema} is replaced by the name of the schema.
--
-- Each function is one transaction. Locks are taken in one order: first the store as a whole, shared by calls and alone
-- by end_leases; then the call's counters, ascending by number; rows come last. Whoever waits for one holds none that
-- comes later, so there is no deadlock. The locks are advisory: a counter without a row can be locked as well.
--
-- Times are UTC epoch seconds. Counters and reservations are named by 128-bit digests: keys may be of any length and
-- hold any character.

do $$
begin
    if to_regnamespace('{schema}') is null then -- One made by an administrator needs no right to make schemas.
        create schema {schema};
    end if;
end
$$;

create table {schema}.version (version integer not null);

insert into {schema}.version values (1);

-- What is used and held: a row for each window, each slice of a sliding window, and all calls in flight of one limit.
create table {schema}.counters (
    counter uuid not null, -- the digest of a charge's key, kind and length
    begins bigint not null,
    over bigint not null, -- from then on it counts no longer; 0 for calls in flight
    used bigint not null,
    held bigint not null,
    primary key (counter, begins)
) with (fillfactor = 70); -- Room for the next version of a busy row, beside the last.

create index counters_over on {schema}.counters (over);

create table {schema}.reservations (
    id uuid primary key,
    ends double precision not null, -- the lease
    ended boolean not null default false, -- before it was settled, so that all of it became used
    settled uuid, -- by which settlement, so that one that is tried again knows itself
    due double precision not null, -- when there is something to do: to end the lease, and then to forget the row
    charges text not null, -- as they were given
    counters uuid[] not null, -- where they count; one element per charge, here and below
    begins bigint[] not null,
    overs bigint[] not null,
    amounts bigint[] not null
);

-- The open leases of each counter of calls in flight: whoever is refused by it is told when the next one ends.
create table {schema}.in_flight (
    counter uuid not null,
    id uuid not null, -- of the reservation
    ends double precision not null,
    amount bigint not null,
    primary key (counter, id)
);

create index reservations_open on {schema}.reservations (due) where not ended and settled is null;
create index reservations_done on {schema}.reservations (due) where ended or settled is not null;


-- The rows that count against a charge. A sliding one counts all slices since the start of its window, those that
-- clients whose clocks are ahead have opened included; others count one row, and `since` is where it begins.
create function {schema}.counting(p_counter uuid, p_begins bigint, p_since bigint)
returns setof {schema}.counters language sql stable as $$
    select * from {schema}.counters
    where counter = p_counter and begins >= p_since and (begins = p_begins or p_since < p_begins)
$$;


-- Lets go of what was held and counts what was used, which calls in flight do not. Of an ended lease, all was used.
create function {schema}.move(
    p_counters uuid[], p_begins bigint[], p_overs bigint[], p_held bigint[], p_used bigint[], p_ended boolean
) returns void language plpgsql as $$
begin
    with moved as (
        select
            counter,
            begins,
            over,
            sum(case when p_ended then 0 else held end)::bigint as held,
            sum(case when over = 0 then 0 when p_ended then used - held else used end)::bigint as used
        from unnest(p_counters, p_begins, p_overs, p_held, p_used) as m (counter, begins, over, held, used)
        where held > 0 or used > 0
        group by counter, begins, over
    ),
    gone as (
        delete from {schema}.counters as c using moved as m
        where m.over = 0 and c.counter = m.counter and c.begins = 0 and c.held <= m.held
    ),
    changed as (
        update {schema}.counters as c
        set held = c.held - m.held, used = greatest(0, c.used + m.used)
        from moved as m
        where c.counter = m.counter and c.begins = m.begins and not (m.over = 0 and c.held <= m.held)
        returning c.counter, c.begins
    )
    -- What was not foreseen may have no row yet.
    insert into {schema}.counters
    select counter, begins, over, used, 0
    from moved
    where used > 0 and (counter, begins) not in (select counter, begins from changed);
end
$$;


-- Settles the leases that have ended: calls in flight are given back, other amounts become used.
create function {schema}.end_leases(p_now double precision) returns void language plpgsql as $$
declare
    v_ids uuid[];
    v_counters uuid[];
    v_begins bigint[];
    v_overs bigint[];
    v_amounts bigint[];
begin
    perform pg_advisory_xact_lock('{schema}.counters'::regclass::bigint);
    with ended as (
        update {schema}.reservations
        set
            ended = true,
            -- Remembered for as long as a late settlement still makes a difference.
            due = 60 + greatest(ends, (
                select max(over) from unnest(overs, amounts) as c (over, amount) where amount > 0
            ))
        where not ended and settled is null and due <= p_now
        returning id, counters, begins, overs, amounts
    )
    select array_agg(e.id), array_agg(c.counter), array_agg(c.begins), array_agg(c.over), array_agg(c.amount)
    into v_ids, v_counters, v_begins, v_overs, v_amounts
    from
        ended as e,
        unnest(e.counters, e.begins, e.overs, e.amounts) as c (counter, begins, over, amount);
    perform {schema}.move(v_counters, v_begins, v_overs, v_amounts, v_amounts, false);
    delete from {schema}.in_flight as f using unnest(v_counters, v_ids) as c (counter, id)
    where f.counter = c.counter and f.id = c.id;
end
$$;


-- Waits for the turn of a call at the counters that it changes.
create function {schema}.enter(p_counters uuid[], p_held bigint[], p_used bigint[], p_now double precision)
returns void language plpgsql as $$
begin
    if exists (select from {schema}.reservations where not ended and settled is null and due <= p_now) then
        perform {schema}.end_leases(p_now);
    end if;
    perform pg_advisory_xact_lock_shared('{schema}.counters'::regclass::bigint);
    perform pg_advisory_xact_lock(number)
    from (
        select distinct uuid_hash_extended(counter, '{schema}.counters'::regclass::bigint) as number
        from unnest(p_counters, p_held, p_used) as c (counter, held, used)
        where held > 0 or used > 0
        order by number
    ) as ascending;
end
$$;


-- Forgets some of what makes no difference any more. The store's clock and the client's, by which the windows of its
-- call began, must agree that a window is over: neither alone, if wrong, can wipe counters that are in use.
create function {schema}.sweep(p_now double precision, p_began bigint) returns void language sql as $$
    delete from {schema}.reservations where id in (
        select id from {schema}.reservations
        where (ended or settled is not null) and due <= p_now
        limit 1000 for update skip locked
    );
    delete from {schema}.counters where (counter, begins) in (
        select counter, begins from {schema}.counters
        where over > 0 and over <= least(p_now, p_began) - 60 and held = 0
        limit 1000 for update skip locked
    );
$$;


-- Takes room for all charges, or for none. Answers {"ends"} of the lease; with {"charges"} where the id was reserved
-- before; or, where it was not and something does not fit, {"now", "tallies", "leaving"}: what stands against each
-- charge, and which amounts will leave that when, told of those that do not fit.
create function {schema}.reserve(
    p_id uuid,
    p_charges text,
    p_counters uuid[],
    p_begins bigint[],
    p_overs bigint[],
    p_since bigint[],
    p_amounts bigint[],
    p_room bigint[], -- the limits, less what earlier charges of this call ask of the same counters, and its own amount
    p_ttl double precision,
    p_now double precision -- null: by this server's clock
) returns json language plpgsql as $$
declare
    v_now double precision := coalesce(p_now, date_part('epoch', clock_timestamp()));
    v_fits boolean;
    v_answer json;
begin
    perform {schema}.enter(p_counters, p_amounts, p_amounts, v_now);
    select bool_and(t.total <= p.room) into v_fits
    from
        unnest(p_counters, p_begins, p_since, p_room) as p (counter, begins, since, room),
        lateral (
            select coalesce(sum(c.used + c.held), 0) as total
            from {schema}.counting(p.counter, p.begins, p.since) as c
        ) as t;

    if v_fits is not false then
        insert into {schema}.reservations (id, ends, due, charges, counters, begins, overs, amounts)
        values (p_id, v_now + p_ttl, v_now + p_ttl, p_charges, p_counters, p_begins, p_overs, p_amounts)
        on conflict do nothing;
        if found then
            insert into {schema}.counters as c
            select counter, begins, over, 0, sum(amount)
            from unnest(p_counters, p_begins, p_overs, p_amounts) as p (counter, begins, over, amount)
            where amount > 0 -- Nothing taken leaves no trace: switches are looked at by every call.
            group by counter, begins, over
            on conflict (counter, begins) do update set held = c.held + excluded.held;
            insert into {schema}.in_flight
            select counter, p_id, v_now + p_ttl, sum(amount)
            from unnest(p_counters, p_overs, p_amounts) as p (counter, over, amount)
            where over = 0 and amount > 0
            group by counter;
            if random() < 0.02 then
                perform {schema}.sweep(v_now, (select max(begins) from unnest(p_begins) as p (begins)));
            end if;
            return json_build_object('ends', v_now + p_ttl);
        end if;
    end if;

    select json_build_object('ends', ends, 'charges', charges) into v_answer
    from {schema}.reservations where id = p_id;
    if found then
        return v_answer;
    end if;

    select json_build_object(
        'now', v_now,
        'tallies', json_agg(json_build_array(t.used, t.held) order by p.position),
        'leaving', json_agg(
            case when t.used + t.held > p.room then {schema}.leaving(p.counter, p.begins, p.since, p.over) end
            order by p.position
        )
    ) into v_answer
    from
        unnest(p_counters, p_begins, p_since, p_overs, p_room) with ordinality
            as p (counter, begins, since, over, room, position),
        lateral (
            select coalesce(sum(c.used), 0) as used, coalesce(sum(c.held), 0) as held
            from {schema}.counting(p.counter, p.begins, p.since) as c
        ) as t;
    return v_answer;
end
$$;


-- Which amounts leave a tally when, the first to go first. Of calls in flight, the open leases tell.
create function {schema}.leaving(p_counter uuid, p_begins bigint, p_since bigint, p_over bigint)
returns json language plpgsql stable as $$
begin
    if p_over > 0 then
        return (
            select json_agg(json_build_array(over, used + held) order by begins)
            from {schema}.counting(p_counter, p_begins, p_since)
        );
    end if;
    return (
        select json_agg(json_build_array(ends, amount) order by ends)
        from {schema}.in_flight
        where counter = p_counter
    );
end
$$;


-- Turns what was reserved into what was used. False: another settlement came before, or it has been forgotten.
create function {schema}.settle(p_id uuid, p_settlement uuid, p_actual bigint[], p_now double precision)
returns boolean language plpgsql as $$
declare
    v_now double precision := coalesce(p_now, date_part('epoch', clock_timestamp()));
    v_counters uuid[];
    v_begins bigint[];
    v_overs bigint[];
    v_amounts bigint[];
    v_ended boolean;
    v_settled uuid;
begin
    select counters, begins, overs, amounts, settled into v_counters, v_begins, v_overs, v_amounts, v_settled
    from {schema}.reservations where id = p_id;
    if not found or v_settled is not null then
        return coalesce(v_settled = p_settlement, false);
    end if;
    perform {schema}.enter(v_counters, v_amounts, p_actual, v_now);
    update {schema}.reservations set settled = p_settlement, due = 60 + greatest(ends, v_now)
    where id = p_id and settled is null
    returning ended into v_ended;
    if not found then
        return false;
    end if;
    perform {schema}.move(v_counters, v_begins, v_overs, v_amounts, p_actual, v_ended);
    delete from {schema}.in_flight as f using unnest(v_counters, v_overs) as c (counter, over)
    where c.over = 0 and f.counter = c.counter and f.id = p_id;
    return true;
end
$$;


-- What stands against each charge: [used, held].
create function {schema}.peek(p_counters uuid[], p_begins bigint[], p_since bigint[], p_now double precision)
returns json language plpgsql as $$
declare
    v_answer json;
begin
    perform {schema}.enter('{}', '{}', '{}', coalesce(p_now, date_part('epoch', clock_timestamp())));
    select json_agg(json_build_array(t.used, t.held) order by p.position) into v_answer
    from
        unnest(p_counters, p_begins, p_since) with ordinality as p (counter, begins, since, position),
        lateral (
            select coalesce(sum(c.used), 0) as used, coalesce(sum(c.held), 0) as held
            from {schema}.counting(p.counter, p.begins, p.since) as c
        ) as t;
    return v_answer;
end
$$;
