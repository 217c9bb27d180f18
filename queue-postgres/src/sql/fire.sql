-- Fires a slot of a schedule; see the function.
SELECT already, made, job FROM {s}.fire($17::text, $18::bigint, $19::text, $1::bigint, $2::uuid[],
    $3::text[], $4::text[], $5::integer[], $6::bigint[], $7::bigint[], $8::bigint[], $9::smallint[],
    $10::text[], $11::bigint[], $12::text[], $13::smallint[], $14::smallint[], $15::text[], $16::text[])
