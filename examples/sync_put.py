"""Put from a program without trio, together with the program's own write: both are stored, or neither."""

import os

from streamq import StreamQ

app = StreamQ(database="examples") if os.environ.get("STREAMQ_URI") else StreamQ.embedded(database="examples")
orders = app.client["examples"]["orders"]
mail = app.blocking.queue("mail")


def place_order(number: int, total: int) -> None:
    with app.client.start_session() as session, session.start_transaction():
        orders.insert_one({"number": number, "total": total}, session=session)
        mail.put({"order": number}, session=session)
        if total <= 0:
            raise ValueError(f"order {number} costs nothing")  # aborts the transaction: no order, no task


def main() -> None:
    orders.delete_many({})
    for number, total in ((1, 42), (2, 0), (3, 7)):
        try:
            place_order(number, total)
        except ValueError as error:
            print("refused:", error)
    print("orders:", [order["number"] for order in orders.find()])

    # Claiming works without trio too, e.g. in a cron job. (Handlers are run by `streamq worker`.)
    while (task := mail.claim(wait_s=0.5)) is not None:
        with task:  # success at the end of the block, failure by an exception
            print("mail for order", task.payload["order"])


if __name__ == "__main__":
    main()
    app.close()
